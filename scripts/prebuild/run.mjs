// Runs a program of the build; says what it printed only when it fails.
import { spawnSync } from 'node:child_process';

export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 28, ...options });
  if (result.error?.code === 'ENOENT')
    throw new Error(
      `${command} is not installed; CONTRIBUTING.md tells what prebuilt binaries are made with`,
    );
  if (result.error) throw result.error;
  if (result.status === 0) return result.stdout;
  throw new Error(
    `${command} ${args.join(' ')} ended with ${result.signal ?? result.status}:\n${result.stdout}${result.stderr}`,
  );
}
