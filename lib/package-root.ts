/** Where this package is installed. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The folder of package.json: above this file, be it one of the sources or part of a bundle. */
export const packageRoot = rootAbove(import.meta.dirname);

function rootAbove(folder: string): string {
  if (existsSync(join(folder, 'package.json')) || folder === dirname(folder)) return folder;
  return rootAbove(dirname(folder));
}
