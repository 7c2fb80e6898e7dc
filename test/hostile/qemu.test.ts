/** The corpus before qemu-img: where it reads something else than we do, the corpus says why. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { execFile } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { corpus } from './corpus.js';
import type { HostileCase } from './outcome.js';

const cases = corpus().filter(({ withoutQemu }) => withoutQemu === undefined);
/** Longer than qemu-img takes for any sound image of this size, milliseconds. */
const patience = 10_000;

let directory = '';
beforeAll(async () => {
  directory = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'qcow2-hostile-'));
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

type Verdict = 'refuses' | 'crashes' | Buffer;

describe(`qemu-img on ${cases.length} hostile and odd images`, () => {
  it.concurrent.each(cases.map((hostile, index) => ({ name: hostile.name, hostile, index })))(
    '$name',
    async ({ hostile, index }) => {
      const verdict = await convert(hostile, index);
      if (verdict === 'crashes') return;
      const { outcome } = hostile;
      if (outcome.kind === 'refused' || outcome.broken.length > 0) {
        const reads = Buffer.isBuffer(verdict);
        expect(reads, reads ? 'it reads what we refuse' : 'it refuses, too').toBe(
          hostile.stricterThanQemu !== undefined,
        );
        return;
      }
      if (!Buffer.isBuffer(verdict)) {
        expect(hostile.laxerThanQemu, 'it refuses what we read').toBeDefined();
        return;
      }
      expect(hostile.laxerThanQemu, 'it reads what we say it refuses').toBeUndefined();
      expect(verdict.equals(outcome.content), 'it reads the same').toBe(true);
    },
  );
});

/** What qemu-img reads from the whole disk. */
async function convert({ bytes }: HostileCase, index: number): Promise<Verdict> {
  const image = join(directory, `${index}.qcow2`);
  const raw = join(directory, `${index}.raw`);
  await writeFile(image, bytes);
  const args = ['convert', '-f', 'qcow2', '-O', 'raw', image, raw];
  const exit = await new Promise<number | null>((resolve) => {
    const child = execFile('qemu-img', args, { timeout: patience }, () => resolve(child.exitCode));
  });
  try {
    if (exit === null) return 'crashes';
    return exit === 0 ? await readFile(raw) : 'refuses';
  } finally {
    await rm(image, { force: true });
    await rm(raw, { force: true });
  }
}
