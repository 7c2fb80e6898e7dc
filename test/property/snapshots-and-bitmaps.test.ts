/** Random histories of writes, sizes, snapshots and bitmaps against plain models; QCOW2_RUNS and QCOW2_SEED make more of them. */
import { describe, expect, it } from 'vitest';
import { create, open, type CreateOptions, type DirtyExtent, type Qcow2 } from '../../lib/index.js';
import { PlainBitmap, qemuDirty } from '../support/bitmap-oracle.js';
import { expectCleanByQemu, qemuContent } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;
const runs = Number(process.env.QCOW2_RUNS ?? 1);
const firstSeed = Number(process.env.QCOW2_SEED ?? 1);
const steps = 60;

const kinds: [CreateOptions, ...CreateOptions[]] = [
  { clusterSize: 512 },
  { clusterSize: 4096, lazyRefcounts: true, refcountBits: 64 },
  { clusterSize: 16 * KiB, extendedL2: true, compressionType: 'zstd' },
  { clusterSize: 64 * KiB, refcountBits: 8 },
];

class History {
  readonly #random: Random;
  readonly #path: string;
  #disk: Qcow2;
  #model: PlainDisk;
  readonly #snapshots = new Map<string, PlainDisk>();
  readonly #bitmaps = new Map<string, { model: PlainBitmap; enabled: boolean }>();
  #names = 0;
  readonly #compactions: Promise<unknown>[] = [];

  constructor(random: Random, path: string, disk: Qcow2) {
    this.#random = random;
    this.#path = path;
    this.#disk = disk;
    this.#model = new PlainDisk(disk.size);
  }

  async step(): Promise<string> {
    const random = this.#random;
    const kind = random.below(18);
    if (kind > 15) return this.#compact(kind === 16);
    if (kind < 6) return this.#write();
    if (kind === 6) return this.#resize();
    if (kind === 7) return this.#reopen();
    if (kind < 10) return this.#makeSnapshot();
    if (kind === 10) return this.#applySnapshot();
    if (kind === 11) return this.#deleteSnapshot();
    return this.#changeBitmaps();
  }

  async judge(): Promise<void> {
    const bytes = Buffer.alloc(this.#model.size);
    await this.#disk.read(bytes, 0);
    expect(bytes.equals(this.#model.read(0, this.#model.size)), 'the disk').toBe(true);
    for (const [name, model] of this.#snapshots) {
      const view = await this.#disk.snapshots.open(name);
      expect(await model.firstDifference((buffer, at) => view.read(buffer, at)), `snapshot ${name}`).toBe(
        null,
      );
      expect(view.size).toBe(model.size);
      await view.close();
    }
    for (const [name, { model }] of this.#bitmaps) {
      const dirty: DirtyExtent[] = [];
      for await (const extent of this.#disk.bitmaps.extents(name)) dirty.push(extent);
      expect(dirty, `bitmap ${name}`).toEqual(model.ranges());
    }
  }

  async end(): Promise<void> {
    await this.#disk.close();
    await Promise.all(this.#compactions);
    await expectCleanByQemu(this.#path);
    expect((await qemuContent(this.#path)).equals(this.#model.read(0, this.#model.size))).toBe(true);
    for (const [name, { model }] of this.#bitmaps)
      expect(await qemuDirty(this.#path, name)).toEqual(model.ranges());
  }

  async #write(): Promise<string> {
    const random = this.#random;
    const length = random.between(1, 80) * 512;
    const start = random.below((this.#model.size - length) / 512) * 512;
    const kind = random.below(4);
    if (kind === 0) {
      await this.#disk.writeZeroes(start, length);
      this.#model.zero(start, length);
    } else if (kind === 1) {
      await this.#disk.discard(start, length);
      this.#model.zero(start, length);
    } else if (kind === 2) {
      return this.#compress(start);
    } else {
      const data = pattern(random.next(), length);
      await this.#disk.write(data, start);
      this.#model.write(data, start);
    }
    this.#mark(start, length);
    return `write ${kind} ${start}+${length}`;
  }

  /** Beside whatever comes next, or not. */
  async #compact(awaited: boolean): Promise<string> {
    const compaction = this.#disk.compact();
    compaction.catch(() => undefined);
    this.#compactions.push(compaction);
    if (awaited) await compaction;
    return 'compact';
  }

  async #compress(near: number): Promise<string> {
    const { clusterSize } = this.#disk.header.geometry;
    const start = near - (near % clusterSize);
    const data = Buffer.alloc(Math.min(clusterSize, this.#model.size - start), `${near}`);
    await this.#disk.write(data, start, { compress: true });
    this.#model.write(data, start);
    this.#mark(start, data.length);
    return `compress ${start}`;
  }

  #mark(start: number, length: number): void {
    for (const { model, enabled } of this.#bitmaps.values()) if (enabled) model.set(start, length);
  }

  async #resize(): Promise<string> {
    const size = this.#random.between(200, 1200) * 512;
    await this.#disk.resize(size, { shrink: true });
    this.#model.resize(size);
    for (const { model } of this.#bitmaps.values()) model.resize(size);
    return `resize ${size}`;
  }

  async #reopen(): Promise<string> {
    await this.#disk.close();
    await expectCleanByQemu(this.#path);
    this.#disk = await open(this.#path, { mode: 'r+' });
    return 'reopen';
  }

  async #makeSnapshot(): Promise<string> {
    if (this.#snapshots.size >= 6) return this.#deleteSnapshot();
    const name = `s${(this.#names += 1)}`;
    await this.#disk.snapshots.create({ name });
    this.#snapshots.set(name, this.#model.clone());
    return `snapshot ${name}`;
  }

  async #applySnapshot(): Promise<string> {
    const names = [...this.#snapshots.keys()];
    const name = names[this.#random.below(names.length)];
    if (name === undefined) return 'nothing to apply';
    if (this.#bitmaps.size > 0) {
      await expect(this.#disk.snapshots.apply(name)).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
      for (const bitmap of [...this.#bitmaps.keys()]) await this.#disk.bitmaps.remove(bitmap);
      this.#bitmaps.clear();
    }
    await this.#disk.snapshots.apply(name);
    this.#model = (this.#snapshots.get(name) ?? this.#model).clone();
    return `apply ${name}`;
  }

  async #deleteSnapshot(): Promise<string> {
    const names = [...this.#snapshots.keys()];
    const name = names[this.#random.below(names.length)];
    if (name === undefined) return 'nothing to delete';
    await this.#disk.snapshots.delete(name);
    this.#snapshots.delete(name);
    return `delete ${name}`;
  }

  async #changeBitmaps(): Promise<string> {
    const random = this.#random;
    const names = [...this.#bitmaps.keys()];
    const name = names[random.below(names.length)];
    const found = this.#bitmaps.get(name ?? '');
    const kind = random.below(5);
    if (name === undefined || found === undefined || kind === 0) {
      const granularity = 2 ** random.between(9, 17);
      const made = `b${(this.#names += 1)}`;
      const enabled = random.chance(0.8);
      await this.#disk.bitmaps.create({ name: made, granularity, disabled: !enabled });
      this.#bitmaps.set(made, { model: new PlainBitmap(this.#model.size, granularity), enabled });
      return `bitmap ${made}`;
    }
    if (kind === 1) {
      await this.#disk.bitmaps.remove(name);
      this.#bitmaps.delete(name);
    } else if (kind === 2) {
      await this.#disk.bitmaps.clear(name);
      found.model.clear();
    } else if (kind === 3) {
      found.enabled = !found.enabled;
      await (found.enabled ? this.#disk.bitmaps.enable(name) : this.#disk.bitmaps.disable(name));
    } else {
      const other = names[random.below(names.length)] ?? name;
      await this.#disk.bitmaps.merge(name, [other]);
      for (const { start, length } of this.#bitmaps.get(other)?.model.ranges() ?? [])
        found.model.set(start, length);
    }
    return `bitmap change ${kind} of ${name}`;
  }
}

describe('random histories with snapshots and bitmaps', () => {
  const temp = useTempDir();
  const seeds = Array.from({ length: runs * kinds.length }, (_, i) => firstSeed + i);

  it.each(seeds)('seed %i', { timeout: 120_000 }, async (seed) => {
    const random = new Random(seed);
    const kind = kinds[seed % kinds.length] ?? kinds[0];
    const path = temp('disk.qcow2');
    const history = new History(random, path, await create(path, 512 * random.between(200, 1200), kind));
    const told: string[] = [];
    try {
      for (let i = 0; i < steps; i += 1) {
        told.push(await history.step());
        if (i % 5 === 4) await history.judge();
      }
      await history.end();
    } catch (error) {
      throw new Error(`after ${JSON.stringify(kind)}: ${told.join(', ')}`, { cause: error });
    }
  });
});
