/** Random sequences of changes on every kind of image beside a model of plain bytes, judged by QEMU at the end. */
import { copyFile, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { open, type CompactOptions, type Qcow2 } from '../../lib/index.js';
import { qemuCheck, qemuReadAll } from '../support/encrypted-image.js';
import { imageKinds, makeImage, secret, type ImageKind, type MadeImage } from '../support/image-kinds.js';
import { expectCleanByQemu, qemuCompare, qemuImg } from '../support/oracle.js';
import type { PlainDisk } from '../support/plain-disk.js';
import {
  contentFor,
  placeOf,
  randomChange,
  wholeClusters,
  type ChangeKind,
  type DiskShape,
  type RandomChange,
} from '../support/random-changes.js';
import { withTempDir } from '../support/temp-dir.js';

/** Sequences for each kind of image, and where they start; more of them by hand: QCOW2_SEQUENCES=500 QCOW2_SEED=$RANDOM. */
const sequences = Number(process.env.QCOW2_SEQUENCES ?? 3);
const seed = Number(process.env.QCOW2_SEED ?? 1);
const only = process.env.QCOW2_KIND;
const tried = new Map<ChangeKind | 'sequence', number>();

describe('random sequences against a model', () => {
  it.each(imageKinds.filter(({ name }) => only === undefined || name.includes(only)))(
    '$name',
    async (kind) => {
      const property = fc.asyncProperty(
        fc.array(randomChange(changesFor(kind)), { minLength: 10, maxLength: 60, size: 'max' }),
        (changes) => withTempDir((path) => runSequence(kind, changes, path)),
      );
      const longRun = sequences > 20;
      await fc.assert(property, {
        numRuns: sequences,
        seed: seed + imageKinds.indexOf(kind),
        ...(longRun ? {} : { endOnFailure: true }),
      });
    },
    30_000 + sequences * 10_000,
  );

  afterAll(() => {
    const { sequence = 0, ...changes } = Object.fromEntries(tried);
    const total = Object.values(changes).reduce((sum, count) => sum + count, 0);
    console.log(`${sequence} sequences of ${total} operations: ${JSON.stringify(changes)}`);
  });
});

function changesFor(kind: ImageKind): ChangeKind[] {
  const always: ChangeKind[] = ['write', 'zero', 'discard', 'flush', 'reopen', 'read', 'resize', 'compact'];
  return kind.compress ? [...always, 'compressed'] : always;
}

async function runSequence(
  kind: ImageKind,
  changes: readonly RandomChange[],
  path: (name: string) => string,
): Promise<void> {
  const made = await makeImage(kind, path);
  count('sequence');
  // So little that tables come and go all the time.
  const options = { ...made.open, cacheBytes: 8 * kind.clusterSize };
  let disk = await open(made.path, options);
  // Compactions go on beside the changes that come after them.
  const compactions: Promise<unknown>[] = [];
  try {
    for (const change of changes) {
      count(change.kind);
      if (change.kind === 'reopen') {
        await disk.close();
        await Promise.all(compactions.splice(0));
        disk = await open(made.path, options);
      } else if (change.kind === 'compact') {
        const compaction = disk.compact(compactOptions(change));
        compaction.catch(() => undefined);
        compactions.push(compaction);
        if (change.zone === 0) await compaction;
      } else await apply(change, disk, made.model, kind);
    }
    await Promise.all(compactions);
    expect(await made.model.firstDifference((buffer, at) => disk.read(buffer, at))).toBe(null);
  } finally {
    await disk.close();
  }
  await judge(kind, made, path);
}

async function apply(change: RandomChange, disk: Qcow2, model: PlainDisk, kind: ImageKind): Promise<void> {
  const shape: DiskShape = { ...kind, size: model.size };
  const place = placeOf(change, shape);
  const { position, length } = change.kind === 'compressed' ? wholeClusters(place, shape) : place;
  switch (change.kind) {
    case 'write':
    case 'compressed': {
      const data = contentFor(change.seed, length);
      await disk.write(data, position, { compress: change.kind === 'compressed' });
      model.write(data, position);
      return;
    }
    case 'zero':
      await disk.writeZeroes(position, length);
      model.zero(position, length);
      return;
    case 'discard':
      await disk.discard(position, length);
      model.zero(position, length);
      return;
    case 'resize':
      await resize(change, disk, model, kind);
      return;
    case 'flush':
      await disk.flush();
      return;
    case 'read': {
      const got = Buffer.alloc(length, 0xcd);
      await disk.read(got, position);
      if (!got.equals(model.read(position, length))) {
        throw new Error(`read of ${length} bytes at ${position} is wrong`);
      }
      return;
    }
    case 'reopen':
    case 'compact':
      throw new Error(`${change.kind} is not a change of the disk`);
  }
}

function compactOptions({ seed: choice }: RandomChange): CompactOptions {
  return { detectZeroes: choice % 2 === 0, ...(choice % 3 === 0 ? { order: 'guest' } : {}) };
}

/** Half the sizes are multiples of a cluster, the others of a sector, and some of nothing. */
async function resize(
  { step, jitter, seed: choice, zone }: RandomChange,
  disk: Qcow2,
  model: PlainDisk,
  kind: ImageKind,
): Promise<void> {
  if (kind.snapshots !== undefined && kind.options.version === 2) return;
  const unit = zone === 0 ? kind.clusterSize : 512;
  const factor = [0.3, 0.7, 0.95, 1, 1.02, 1.4][choice % 6] ?? 1;
  const wanted = Math.floor((kind.size * factor) / unit) * unit + step * unit;
  const size = zone === 2 && kind.options.dataFile?.raw !== true ? Math.max(1, wanted + jitter) : wanted;
  await disk.resize(size, { shrink: true });
  model.resize(size);
}

/** What QEMU says of an image when all is done. */
async function judge(kind: ImageKind, made: MadeImage, path: (name: string) => string): Promise<void> {
  const { model, snapshots } = made;
  if (kind.options.encryption !== undefined) {
    expect(qemuCheck(made.path, secret)).toContain('No errors were found');
    const content = qemuReadAll(made.path, secret);
    expect(content.equals(model.read(0, wholeSectors(model.size)))).toBe(true);
    return;
  }
  await expectCleanByQemu(made.path);
  await expectSame(made.path, model, path);
  for (const [name, kept] of snapshots) {
    // `convert -l` would cut it to the size that the disk has now.
    await copyFile(made.path, path('snapshot'));
    await qemuImg(['snapshot', '-a', name, path('snapshot')]);
    await expectSame(path('snapshot'), kept, path);
  }
  if (made.dataPath !== null && kind.options.dataFile?.raw === true) {
    const raw = await readFile(made.dataPath);
    expect(raw.subarray(0, model.size).equals(model.read(0, model.size)), 'the raw data file').toBe(true);
  }
}

async function expectSame(image: string, model: PlainDisk, path: (name: string) => string): Promise<void> {
  const seenByQemu = model.clone();
  seenByQemu.resize(wholeSectors(model.size));
  await seenByQemu.saveAs(path('expected'));
  const { same, output } = await qemuCompare(image, path('expected'), { b: 'raw' });
  expect(same, `${dirname(image)}: ${output}`).toBe(true);
}

/** QEMU leaves out a sector that is only partly there. */
function wholeSectors(size: number): number {
  return size - (size % 512);
}

function count(what: ChangeKind | 'sequence'): void {
  tried.set(what, (tried.get(what) ?? 0) + 1);
}
