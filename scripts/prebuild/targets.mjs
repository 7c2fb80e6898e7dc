// The platforms that get a prebuilt binary, and with what one Linux machine, or a Mac, builds for them.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { scripts, work } from './folders.mjs';
import { sysroot } from './sysroot.mjs';

const require = createRequire(import.meta.url);

const toolchain = (name) => ({ CMAKE_TOOLCHAIN_FILE: join(scripts, 'toolchains', `${name}.cmake`) });

const linux = (file, triple, architecture) => () => ({
  ...toolchain(file),
  QCOW2_TRIPLE: triple,
  QCOW2_SYSROOT: sysroot(architecture),
});

const darwin = (architecture) => () => ({
  CMAKE_OSX_ARCHITECTURES: architecture,
  // For CMake, which otherwise takes the processor it runs on.
  CMAKE_SYSTEM_PROCESSOR: architecture,
  CMAKE_SYSTEM_NAME: 'Darwin',
  // What Node 20 asks for.
  CMAKE_OSX_DEPLOYMENT_TARGET: '11.0',
});

/** What cmake-js says on Windows only. */
const windows = () => ({
  ...toolchain('windows'),
  CMAKE_JS_NODELIB_DEF: require('node-api-headers').def_paths.node_api_def,
  CMAKE_JS_NODELIB_TARGET: join(work, 'node.lib'),
});

/** ISA-L's deflate is fast by its assembler code for x86-64. */
const allCodecs = ['deflate', 'zstd', 'isal'];
const portableCodecs = ['deflate', 'zstd'];

/**
 * `host`: what `process.platform` must be to build it; `cmake()`: CMake's variables that make it build for the target;
 * `codecs`: those that must be linked in; `strip`: the program that strips it; `libc`: the tag by which node-gyp-build tells the two Linux C libraries apart.
 */
export const targets = [
  {
    name: 'linux-x64-glibc',
    platform: 'linux',
    arch: 'x64',
    codecs: allCodecs,
    libc: 'glibc',
    host: 'linux',
    strip: 'llvm-strip-14',
    cmake: linux('linux', 'x86_64-linux-gnu', 'amd64'),
  },
  {
    name: 'linux-x64-musl',
    platform: 'linux',
    arch: 'x64',
    codecs: allCodecs,
    libc: 'musl',
    host: 'linux',
    strip: 'llvm-strip-14',
    cmake: linux('linux-musl', 'x86_64-linux-musl', 'amd64'),
  },
  {
    name: 'linux-arm64-glibc',
    platform: 'linux',
    arch: 'arm64',
    codecs: portableCodecs,
    libc: 'glibc',
    host: 'linux',
    strip: 'llvm-strip-14',
    cmake: linux('linux', 'aarch64-linux-gnu', 'arm64'),
  },
  {
    name: 'win32-x64',
    platform: 'win32',
    arch: 'x64',
    codecs: allCodecs,
    host: 'linux',
    strip: 'x86_64-w64-mingw32-strip',
    cmake: windows,
  },
  {
    name: 'darwin-x64',
    platform: 'darwin',
    arch: 'x64',
    codecs: allCodecs,
    host: 'darwin',
    strip: 'strip',
    cmake: darwin('x86_64'),
  },
  {
    name: 'darwin-arm64',
    platform: 'darwin',
    arch: 'arm64',
    codecs: portableCodecs,
    host: 'darwin',
    strip: 'strip',
    cmake: darwin('arm64'),
  },
];

/** The file of a target's binary, from the package's root. */
export function prebuildPath({ platform, arch, libc }) {
  return join('prebuilds', `${platform}-${arch}`, libc === undefined ? 'qcow2.node' : `qcow2.${libc}.node`);
}
