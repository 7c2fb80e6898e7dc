// Runs at `npm install`: keeps a native addon that loads, else compiles one, else says what is missing and how to get it; then
// compiles the program ahead.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { compileAddon } from './compile-addon.mjs';
import { remedy } from './remedy.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);

/** npm sets `true` for --build-from-source, or the package's name for --build-from-source=qcow2. */
function wantsCompilation() {
  const wish = process.env.npm_config_build_from_source;
  return wish === 'true' || wish === '' || wish === 'qcow2';
}

/** Undefined when an addon loads, else why none does. */
function loadProblem() {
  try {
    require('node-gyp-build')(root);
    return undefined;
  } catch (error) {
    return error.message.trim();
  }
}

function version(program) {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return status === 0 ? (/\d+\.\d+(\.\d+)?/.exec(stdout)?.[0] ?? 'of unknown version') : undefined;
}

/** What a compilation needs and this machine lacks. */
function missingTools() {
  const missing = [];
  const cmake = version('cmake');
  const [major, minor] = (cmake ?? '').split('.').map(Number);
  if (cmake === undefined) missing.push('cmake is not installed');
  else if (major < 3 || (major === 3 && minor < 19))
    missing.push(`cmake is ${cmake}; 3.19 or newer is needed`);
  const compilers = process.env.CXX === undefined ? ['c++', 'g++', 'clang++'] : [process.env.CXX];
  // Visual Studio's compiler is not in the PATH; cmake finds it.
  if (process.platform !== 'win32' && compilers.every((compiler) => version(compiler) === undefined))
    missing.push(`there is no C++ compiler (${compilers.join(', ')})`);
  return missing;
}

/** Undefined when the addon was compiled and loads, else why not. */
function compileProblem() {
  try {
    compileAddon();
  } catch (error) {
    const missing = missingTools();
    return missing.length > 0 ? missing.join(', and ') : error.message;
  }
  return loadProblem();
}

function osRelease() {
  try {
    return readFileSync('/etc/os-release', 'utf8');
  } catch {
    return '';
  }
}

/** Makes the program start faster. Without it everything works, so nothing is said: a clone has nothing to compile yet. */
async function compileAhead() {
  const { tryToCompileProgram } = await import('./compile-program.mjs');
  await tryToCompileProgram();
}

const unloadable = wantsCompilation() ? 'npm_config_build_from_source asks for it' : loadProblem();
if (unloadable !== undefined) {
  const platform = `${process.platform}-${process.arch}`;
  console.error(`qcow2: compiling the native addon for ${platform}: ${unloadable}`);
  const problem = compileProblem();
  if (problem !== undefined) {
    console.error(
      `qcow2: the native addon could not be compiled: ${problem}\n` +
        'It needs cmake 3.19 or newer and a C++17 compiler (gcc 8, clang 7, Visual Studio 2019, or newer):\n' +
        `  ${remedy(process.platform, osRelease())}\n` +
        'Then run `npm rebuild qcow2`.',
    );
    process.exitCode = 1;
  }
}
if (process.exitCode === undefined) await compileAhead();
