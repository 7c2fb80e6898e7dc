/** What QEMU says is dirty in a persistent bitmap, and a model of one that is too simple to be wrong. */
import { execFile, spawn } from 'node:child_process';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface DirtyRange {
  start: number;
  length: number;
}

/** The dirty ranges of a bitmap as qemu-nbd exports them. */
export async function qemuDirty(path: string, bitmap: string): Promise<DirtyRange[]> {
  const directory = await mkdtemp(join(tmpdir(), 'qcow2-nbd-'));
  try {
    const socket = join(directory, 's');
    const server = spawn('qemu-nbd', ['-r', '-f', 'qcow2', '-B', bitmap, '-k', socket, path]);
    let said = '';
    server.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const exited = new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.once('close', () => resolve());
    });
    await Promise.race([waitFor(socket), exited.then(() => Promise.reject(new Error(`qemu-nbd: ${said}`)))]);
    // The server serves one client and ends.
    const { stdout } = await promisify(execFile)('nbdinfo', [
      '--json',
      `--map=qemu:dirty-bitmap:${bitmap}`,
      `nbd+unix:///?socket=${socket}`,
    ]);
    await exited;
    const map = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
    return merged(
      map.filter(({ type }) => type === 1).map(({ offset, length }) => ({ start: offset, length })),
    );
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Bits by their numbers. */
export class PlainBitmap {
  readonly granularity: number;
  #size: number;
  readonly #set = new Set<number>();

  constructor(size: number, granularity: number) {
    this.#size = size;
    this.granularity = granularity;
  }

  set(start: number, length: number): void {
    if (length === 0) return;
    const last = Math.floor((start + length - 1) / this.granularity);
    for (let bit = Math.floor(start / this.granularity); bit <= last; bit += 1) this.#set.add(bit);
  }

  clear(): void {
    this.#set.clear();
  }

  resize(size: number): void {
    this.#size = size;
    for (const bit of this.#set) if (bit * this.granularity >= size) this.#set.delete(bit);
  }

  ranges(): DirtyRange[] {
    const bits = [...this.#set].sort((a, b) => a - b);
    return merged(
      bits.map((bit) => {
        const start = bit * this.granularity;
        return { start, length: Math.min(this.granularity, this.#size - start) };
      }),
    );
  }
}

function merged(ranges: readonly DirtyRange[]): DirtyRange[] {
  const result: DirtyRange[] = [];
  for (const range of ranges) {
    const last = result.at(-1);
    if (last !== undefined && last.start + last.length === range.start) last.length += range.length;
    else result.push({ ...range });
  }
  return result;
}

async function waitFor(path: string): Promise<void> {
  for (let tries = 0; tries < 500; tries += 1) {
    try {
      await access(path);
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  throw new Error(`${path} did not appear`);
}
