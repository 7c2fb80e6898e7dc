/** First clusters and whole images for the tests of lib/format, made by qemu-img in a directory of their own. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Runs qemu-img and returns what it prints; a missing qemu-img is an error that tells what to install. */
export function qemuImg(directory: string, ...args: string[]): string {
  try {
    return execFileSync('qemu-img', args, { cwd: directory, encoding: 'utf8', stdio: 'pipe' });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw new Error('qemu-img is needed as an oracle: install it (Debian: apt-get install qemu-utils)', {
        cause: error,
      });
    }
    throw error;
  }
}

/** Creating a LUKS image, QEMU counts CPU time in ticks and gives up when none passed: by chance, so it gets more tries. */
function createImage(directory: string, args: string[]): void {
  for (let attemptsLeft = 20; ; attemptsLeft -= 1) {
    try {
      qemuImg(directory, 'create', '-q', '-f', 'qcow2', ...args);
      return;
    } catch (error) {
      const byChance = error instanceof Error && error.message.includes('accurate CPU usage');
      if (!byChance || attemptsLeft === 0) throw error;
    }
  }
}

/** Makes a directory for images and removes it when `use` is done. */
export function withDirectory<T>(use: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'qcow2-format-'));
  try {
    return use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The bytes of a new image; what `prepare` does to it, given its directory and name, comes before reading it. */
export function qemuImage(args: string[], prepare?: (directory: string, name: string) => void): Uint8Array {
  return withDirectory((directory) => {
    qemuImg(directory, 'create', '-q', '-f', 'qcow2', 'base.qcow2', '10M');
    const name = 'image.qcow2';
    createImage(directory, [...args.slice(0, -1), name, ...args.slice(-1)]);
    prepare?.(directory, name);
    return Uint8Array.from(readFileSync(join(directory, name)));
  });
}

/** Arguments that make a LUKS image in little time. */
export const luksArgs = [
  '--object',
  'secret,id=s,data=geheim',
  '-o',
  'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
];

/** A copy with big-endian values put in: offset, bytes, value. */
export function patched(
  bytes: Uint8Array,
  ...patches: [offset: number, size: 1 | 2 | 4 | 8, value: number | bigint][]
): Uint8Array {
  const copy = Uint8Array.from(bytes);
  const view = new DataView(copy.buffer);
  for (const [offset, size, value] of patches) {
    for (let byte = 0; byte < size; byte += 1) {
      view.setUint8(offset + byte, Number((BigInt(value) >> BigInt(8 * (size - 1 - byte))) & 0xffn));
    }
  }
  return copy;
}
