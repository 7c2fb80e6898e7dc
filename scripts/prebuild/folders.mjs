// Where the build of prebuilt binaries keeps its things; all of it may be deleted at any time.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const scripts = fileURLToPath(new URL('.', import.meta.url));
export const work = join(root, 'build-prebuild');
export const codecSources = join(work, 'codec-sources');
