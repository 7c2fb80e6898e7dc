// Compiles the native addon with cmake: `npm run build:native`, and for the scripts that import it.
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);

/** Runs cmake; its output is shown only when it fails. */
export function cmake(...args) {
  const result = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (result.error) throw result.error;
  if (result.status === 0) return;
  throw new Error(
    `cmake ${args.join(' ')} ended with ${result.signal ?? result.status}:\n${result.stdout}${result.stderr}`,
  );
}

/** Configures and builds a CMake project; `options` are cmake's. */
export function buildProject(source, build, options) {
  cmake('-S', source, '-B', build, '-DCMAKE_BUILD_TYPE=Release', ...options);
  cmake('--build', build, '--config', 'Release', '--parallel', String(availableParallelism()));
}

/** Leaves the addon in `build`/Release, where node-gyp-build looks for it. */
export function compileAddon(build = join(root, 'build'), options = []) {
  const output = join(build, 'Release');
  mkdirSync(output, { recursive: true });
  const headers = require('node-api-headers');
  buildProject(root, build, [
    // node-addon-api tells its folder from the working directory.
    `-DQCOW2_NODE_HEADERS=${headers.include_dir};${resolve(require('node-addon-api').include_dir)}`,
    `-DQCOW2_NODE_SYMBOLS=${headers.def_paths.node_api_def}`,
    // Two names, because generators for several configurations add the name of the configuration to the first.
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${output}`,
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE=${output}`,
    ...options,
  ]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) compileAddon();
