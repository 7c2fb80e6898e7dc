/** Wherever a crash falls: a bitmap that says it can be relied on knows of every change since it was made. */
import { writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open, type Qcow2 } from '../../lib/index.js';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { crashStates } from '../support/crash-states.js';
import { qemuCheck } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const size = 256 * KiB;
const granularity = 4096;

interface Case {
  name: string;
  clusterSize: number;
  /** Whether there is a backing file, and whether its format is named. */
  backing?: 'raw' | 'unnamed';
  /** Of the name of the backing file, in pieces of 5 bytes. */
  nameLength?: number;
  /** Whether the bitmap is not there yet. */
  fresh?: boolean;
  run: (disk: Qcow2) => Promise<void>;
}

async function makeAndSwitch(disk: Qcow2): Promise<void> {
  await disk.bitmaps.create({ name: 'b', granularity });
  await disk.bitmaps.disable('b');
  await disk.bitmaps.enable('b');
  await disk.bitmaps.remove('b');
  await disk.bitmaps.create({ name: 'b', granularity });
}

const cases: Case[] = [
  {
    name: 'writes, zeroes and discards',
    clusterSize: 4096,
    run: async (disk) => {
      await disk.write(pattern(1, 5000), 10_000);
      await disk.flush();
      await disk.writeZeroes(64 * KiB, 4096);
      await disk.discard(0, 4096);
    },
  },
  {
    name: 'growing and shrinking',
    clusterSize: 512,
    run: async (disk) => {
      await disk.resize(100 * KiB, { shrink: true });
      await disk.resize(1024 * KiB);
      await disk.write(pattern(2, 512), 1000 * KiB);
    },
  },
  {
    name: 'making and removing others',
    clusterSize: 512,
    backing: 'raw',
    run: async (disk) => {
      await disk.write(pattern(3, 512), 512);
      await disk.bitmaps.create({ name: 'another', granularity: 512 });
      await disk.write(pattern(4, 512), 100 * KiB);
      await disk.bitmaps.merge('another', ['b']);
      await disk.bitmaps.remove('another');
    },
  },
  {
    name: 'making the first bitmap, in the way of a long backing file name',
    clusterSize: 4096,
    backing: 'raw',
    nameLength: 90,
    fresh: true,
    run: makeAndSwitch,
  },
  {
    name: 'making the first bitmap, whose extension begins in one sector and ends in the next',
    clusterSize: 65536,
    backing: 'unnamed',
    fresh: true,
    run: makeAndSwitch,
  },
];

async function dirtyUnits(disk: Qcow2): Promise<Set<number>> {
  const units = new Set<number>();
  for await (const { start, length } of disk.bitmaps.extents('b')) {
    for (let at = start; at < start + length; at += granularity) units.add(at / granularity);
  }
  return units;
}

describe('a crash', () => {
  const temp = useTempDir();

  it.each(cases)('during $name', async ({ clusterSize, nameLength = 0, backing, fresh = false, run }) => {
    const memory = new MemoryStorage();
    const base = new MemoryStorage(pattern(9, size));
    const resolve = (): MemoryStorage => base;
    const reference = { name: `${'long/'.repeat(nameLength)}base.raw`, unchecked: true };
    const format = backing === 'raw' ? { format: 'raw' as const } : {};
    const options = backing === undefined ? {} : { backing: { ...reference, ...format } };
    const made = await create(memory, size, { clusterSize, ...options });
    await made.close();
    if (!fresh) {
      const setUp = await open(memory, { mode: 'r+', resolve });
      await setUp.bitmaps.create({ name: 'b', granularity });
      await setUp.write(pattern(5, 8192), 8192);
      await setUp.bitmaps.clear('b');
      await setUp.close();
    }
    const before = Buffer.alloc(size);
    const reader = await open(memory, { resolve });
    await reader.read(before, 0);
    await reader.close();

    const recording = await RecordingStorage.over(memory);
    const disk = await open(recording, { mode: 'r+', resolve });
    await run(disk);
    await disk.close();
    expect(recording.violations).toEqual([]);
    let states = 0;
    let consistent = 0;
    const how = { exhaustiveUpTo: 7, samples: 30, tornSamples: 10, seed: 7 };
    for await (const { content, description } of crashStates(recording.log, how)) {
      states += 1;
      if (states % 37 === 0) {
        const path = temp('state.qcow2');
        const bytes = Buffer.alloc(await content.size());
        await content.read(bytes, 0);
        await writeFile(path, bytes);
        if (backing === undefined) expect((await qemuCheck(path)).corruptions ?? 0, description).toBe(0);
      }
      const crashed = await open(content, { resolve });
      expect(crashed.header.backingFile, description).toBe(made.header.backingFile);
      const bitmap = (await crashed.bitmaps.list()).find(({ name }) => name === 'b');
      if (bitmap?.consistent === true) {
        consistent += 1;
        const dirty = await dirtyUnits(crashed);
        const after = Buffer.alloc(Math.min(size, crashed.size));
        await crashed.read(after, 0);
        for (let at = 0; at < after.length; at += granularity) {
          if (dirty.has(at / granularity)) continue;
          const end = Math.min(after.length, at + granularity);
          expect(
            after.subarray(at, end).equals(before.subarray(at, end)),
            `unit at ${at}\n${description}`,
          ).toBe(true);
        }
      }
      await crashed.close();
    }
    expect(consistent).toBeGreaterThan(0);
    expect(states).toBeGreaterThan(consistent);
  });
});
