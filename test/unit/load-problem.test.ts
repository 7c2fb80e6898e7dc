/** What a person reads when the addon does not load: the loaders' own words in, cause and remedy out. */
import { expect, it } from 'vitest';
import { describeLoadProblem } from '../../lib/native/load-problem.js';

const host = { platform: 'linux-x64', node: 'v22.0.0' };

it.each([
  [
    'no binary',
    'No native build was found for platform=linux arch=s390x runtime=node abi=127 uv=1 libc=glibc node=22.0.0\n',
    [/no prebuilt binary/, /npm approve-scripts qcow2/, /npm rebuild qcow2 --build-from-source/],
  ],
  [
    'an old glibc',
    "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.28' not found (required by /app/qcow2.glibc.node)",
    [/GLIBC_2\.28 is missing/, /npm rebuild qcow2 --build-from-source/],
  ],
  [
    'a binary for glibc on musl',
    'Error loading shared library ld-linux-x86-64.so.2: No such file or directory (needed by /app/qcow2.node)',
    [/other C library/, /ld-linux-x86-64\.so\.2/, /LIBC=musl/, /npm ci/],
  ],
  [
    'a binary for musl on glibc',
    'libc.musl-x86_64.so.1: cannot open shared object file: No such file or directory',
    [/other C library/, /npm ci/],
  ],
  [
    'a library that is gone',
    'libisal.so.2: cannot open shared object file: No such file or directory',
    [/the library libisal\.so\.2/, /npm rebuild/],
  ],
  [
    'a library that is gone, on musl',
    'Error loading shared library libisal.so.2: No such file or directory (needed by /app/qcow2.node)',
    [/the library libisal\.so\.2/],
  ],
  ['another machine', '/app/qcow2.node: invalid ELF header', [/another platform/, /npm ci/]],
  ['another machine, Windows', '\\\\?\\C:\\app\\qcow2.node is not a valid Win32 application.', [/npm ci/]],
  [
    'another machine, macOS',
    "dlopen(/app/qcow2.node, 0x0001): tried: '/app/qcow2.node' (mach-o file, but is an incompatible architecture (have 'x86_64', need 'arm64'))",
    [/npm ci/],
  ],
  ['anything else', 'the moon is in the wrong house', [/the moon is in the wrong house/, /npm rebuild/]],
])('%s', (_name, message, signs) => {
  const text = describeLoadProblem(new Error(message), host);
  expect(text).toMatch(/^The native addon of qcow2 could not be loaded on linux-x64, Node v22\.0\.0\. /);
  for (const sign of signs) expect(text).toMatch(sign);
});
