/** Types of targets.mjs, for the tests. */
export interface Target {
  readonly name: string;
  readonly platform: string;
  readonly arch: string;
  readonly libc?: string;
  readonly host: string;
}

export const targets: readonly Target[];
export function prebuildPath(target: Target): string;
