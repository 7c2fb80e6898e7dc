/** The option `--output`. */
import { Failure } from './failure.js';

export type OutputFormat = 'human' | 'json';

/** @throws Failure */
export function outputFormat(value: string): OutputFormat {
  if (value === 'human' || value === 'json') return value;
  throw new Failure('--output must be used with human or json as argument.');
}
