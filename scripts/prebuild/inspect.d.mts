/** Types of inspect.mjs, for the tests. */
import type { Target } from './targets.mjs';

export function inspect(target: Target): string[];
export function hardeningProblems(path: string): string[];
