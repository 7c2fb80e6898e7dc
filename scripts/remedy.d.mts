/** Types of remedy.mjs, for the tests. */
export function remedy(platform: string, osRelease: string): string;
