// Compiles the native addon with cmake-js: `npm run build:native`, and for the scripts that import it.
import { existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const parallel = ['--parallel', String(availableParallelism())];

/** What the program printed is shown only when it fails. */
function run(name, program, args) {
  const result = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (result.error) throw result.error;
  if (result.status === 0) return;
  throw new Error(
    `${name} ${args.join(' ')} ended with ${result.signal ?? result.status}:\n${result.stdout}${result.stderr}`,
  );
}

export function cmake(...args) {
  run('cmake', 'cmake', args);
}

/** Configures and builds a CMake project that is no addon; `variables` are CMake's. */
export function buildProject(source, build, variables) {
  const options = Object.entries(variables).map(([name, value]) => `-D${name}=${value}`);
  cmake('-S', source, '-B', build, '-DCMAKE_BUILD_TYPE=Release', ...options);
  cmake('--build', build, '--config', 'Release', ...parallel);
}

/** Leaves the addon in `build`/Release, where node-gyp-build looks for it; `variables` are CMake's. */
export function compileAddon(build = join(root, 'build'), variables = {}) {
  const cmakeJs = (command, ...args) =>
    run('cmake-js', process.execPath, [
      require.resolve('cmake-js/bin/cmake-js'),
      command,
      ...['--directory', root, '--out', build, '--config', 'Release', ...args],
    ]);
  const options = Object.entries(variables).map(([name, value]) => `--CD${name}=${value}`);
  const cache = join(build, 'CMakeCache.txt');
  const isConfigured = existsSync(cache);
  try {
    cmakeJs('configure', ...options);
  } catch (error) {
    if (!isConfigured) throw error;
    // What was configured with another generator, compiler or place of this folder cannot be configured again.
    rmSync(cache);
    rmSync(join(build, 'CMakeFiles'), { recursive: true, force: true });
    cmakeJs('configure', ...options);
  }
  cmakeJs('build', ...parallel);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) compileAddon();
