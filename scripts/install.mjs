// Runs at `npm install`: keeps a native addon that loads, else compiles one.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);

/** npm sets `true` for --build-from-source, or the package's name for --build-from-source=qcow2. */
function wantsCompilation() {
  const wish = process.env.npm_config_build_from_source;
  return wish === 'true' || wish === '' || wish === 'qcow2';
}

/** Undefined when an addon loads, else why none does. */
function loadError() {
  try {
    require('node-gyp-build')(root);
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Undefined when the addon was compiled and loads, else why not. */
function compileError() {
  let cmakeJs;
  try {
    cmakeJs = require.resolve('cmake-js/bin/cmake-js');
  } catch (error) {
    return error;
  }
  const result = spawnSync(process.execPath, [cmakeJs, 'compile', '--silent'], {
    cwd: root,
    stdio: 'inherit',
  });
  if (result.error) return result.error;
  if (result.status !== 0) return new Error(`cmake-js compile ended with ${result.signal ?? result.status}`);
  return loadError();
}

const remedies = {
  linux:
    'Debian, Ubuntu: apt-get install build-essential cmake\n' +
    '  Fedora, RHEL:   dnf install gcc-c++ make cmake\n' +
    '  Alpine:         apk add build-base cmake',
  darwin: 'xcode-select --install && brew install cmake',
  win32: 'install "Desktop development with C++" of Visual Studio Build Tools (it brings cmake along)',
};

const unloadable = wantsCompilation() ? new Error('npm_config_build_from_source asks for it') : loadError();
if (unloadable !== undefined) {
  console.error(
    `qcow2: compiling the native addon for ${process.platform}-${process.arch}: ${unloadable.message.trim()}`,
  );
  const failure = compileError();
  if (failure !== undefined) {
    console.error(
      `qcow2: the native addon could not be compiled: ${failure.message}\n` +
        'It needs cmake (3.19 or newer) and a C++17 compiler (gcc 8, clang 7, Visual Studio 2019 or newer):\n' +
        `  ${remedies[process.platform] ?? 'install them with the package manager of your system'}\n` +
        'Then run `npm rebuild qcow2`.',
    );
    process.exitCode = 1;
  }
}
