/** `repair`: repairs all that is wrong with the tables of an image. */
import type { Context } from '../context.js';
import { run as check } from './check.js';

export function run(words: readonly string[], context: Context): Promise<number> {
  return check(['-r', 'all', ...words], context);
}
