// The test suite with the addon under AddressSanitizer and UndefinedBehaviorSanitizer. Arguments go on to vitest.
// The addon is built into a directory of its own; programs that the tests start (QEMU's) run without the sanitizer.
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileAddon } from './compile-addon.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const prebuild = join(root, 'build-sanitize');
/** Left out: a browser does not run under the sanitizer, binaries are about another build, and memory is not what it is without. */
const excluded = [
  'test/cli/picture.test.ts',
  'test/package/**',
  'test/hostile/by-path.test.ts',
  'test/memory/**',
];
const tools = ['qemu-img', 'qemu-io', 'qemu-nbd', 'strace', 'cp', 'mkfifo', 'truncate', 'fallocate'];

compileAddon(join(prebuild, 'build'), { QCOW2_SANITIZE: 'ON' });
const wrappers = mkdtempSync(join(tmpdir(), 'qcow2-tools-'));
try {
  for (const tool of tools) wrap(tool);
  const runtime = execFileSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim();
  const { status } = spawnSync(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      '--testTimeout=180000',
      ...excluded.flatMap((path) => ['--exclude', path]),
      ...process.argv.slice(2),
    ],
    {
      cwd: root,
      stdio: 'inherit',
      env: {
        ...process.env,
        PATH: `${wrappers}${delimiter}${process.env.PATH}`,
        QCOW2_PREBUILD: prebuild,
        LD_PRELOAD: runtime,
        // What V8 keeps until the process ends is no leak of ours.
        ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:allocator_may_return_null=1',
        UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
      },
    },
  );
  process.exitCode = status ?? 1;
} finally {
  rmSync(wrappers, { recursive: true, force: true });
}

/** Puts a program in front of `tool` that starts it without the sanitizer's runtime. */
function wrap(tool) {
  const found = spawnSync('which', [tool], { encoding: 'utf8' }).stdout.trim();
  if (found === '') return;
  const path = join(wrappers, tool);
  writeFileSync(path, `#!/bin/sh\nunset LD_PRELOAD\nexec ${found} "$@"\n`);
  chmodSync(path, 0o755);
}
