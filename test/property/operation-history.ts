/**
 * A random history of everything that can be done to an image and to what it stands on, by this package and by QEMU in
 * turns, beside models of plain bytes and bits.
 */
import { copyFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { create, open, type Disk, type OpenOptions, type Qcow2 } from '../../lib/index.js';
import { PlainBitmap } from '../support/bitmap-oracle.js';
import { qemuImg } from '../support/oracle.js';
import { pattern, type Random } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { contentFor } from '../support/random-changes.js';
import { changeByQemu, writeByQemu } from './operation-by-qemu.js';
import { judgeByQemu } from './operation-judge.js';
import {
  asImage,
  mark,
  secret,
  type BaseFile,
  type HistoryKind,
  type ImageModel,
} from './operation-model.js';

const sideRange = { start: 3 * 4096, length: 5 * 4096 };

export class History {
  readonly told: string[] = [];
  readonly image: ImageModel;
  readonly #random: Random;
  readonly #path: (name: string) => string;
  readonly #bases: BaseFile[] = [];
  readonly #side: Qcow2;
  #disk: Qcow2;
  #names = 0;
  readonly #compactions: Promise<unknown>[] = [];
  /** Each as often as it is to come. */
  readonly #steps: readonly (() => Promise<string>)[] = (
    [
      [7, () => this.#write()],
      [2, () => this.#resize()],
      [2, () => this.#reopen()],
      [2, () => this.#makeSnapshot()],
      [1, () => this.#applySnapshot()],
      [1, () => this.#deleteSnapshot()],
      [4, () => this.#changeBitmaps()],
      [2, () => this.#amend()],
      [1, () => this.#commit()],
      [2, () => this.#rebase()],
      [1, () => this.#compact(true)],
      [1, () => this.#compact(false)],
    ] as [number, () => Promise<string>][]
  ).flatMap(([weight, work]) => Array.from({ length: weight }, () => work));

  private constructor(
    random: Random,
    path: (name: string) => string,
    image: ImageModel,
    disk: Qcow2,
    side: Qcow2,
  ) {
    this.#random = random;
    this.#path = path;
    this.image = image;
    this.#disk = disk;
    this.#side = side;
  }

  static async begin(kind: HistoryKind, random: Random, path: (name: string) => string): Promise<History> {
    const size = 512 * random.between(...kind.sectors);
    const dataFile = kind.options.dataFile && { ...kind.options.dataFile, name: path('data') };
    const options = { ...kind.options, ...(dataFile && { dataFile }) };
    const disk = await create(path('disk.qcow2'), size, options);
    const side = await create(path('side.qcow2'), size, { clusterSize: 4096 });
    await side.bitmaps.create({ name: 'side', granularity: 4096 });
    await side.write(pattern(1, sideRange.length), sideRange.start);
    const image: ImageModel = {
      path: path('disk.qcow2'),
      kind,
      disk: new PlainDisk(size),
      backing: null,
      snapshots: new Map(),
      bitmaps: new Map(),
      version: options.version ?? 3,
      refcountBits: options.refcountBits ?? 16,
    };
    const history = new History(random, path, image, disk, side);
    if (kind.chain !== 'none') await history.#makeBases(size);
    if (kind.chain === 'start') await history.#startOnBase();
    return history;
  }

  async step(): Promise<void> {
    const work = this.#random.pick(this.#steps as [() => Promise<string>, ...(() => Promise<string>)[]]);
    this.told.push(await work());
  }

  /** Compares what this package reads with the models. */
  async judge(): Promise<void> {
    const { disk, snapshots, bitmaps } = this.image;
    expect(this.#disk.size).toBe(disk.size);
    expect(await differenceOf(disk, this.#disk), 'the disk').toBe(null);
    for (const [name, model] of snapshots) {
      const view = await this.#disk.snapshots.open(name);
      if (model !== null) {
        expect(view.size).toBe(model.size);
        expect(await differenceOf(model, view), `snapshot ${name}`).toBe(null);
      }
      await view.close();
    }
    for (const [name, { model, enabled }] of bitmaps) {
      const found: { start: number; length: number }[] = [];
      for await (const extent of this.#disk.bitmaps.extents(name)) found.push(extent);
      expect(found, `bitmap ${name}`).toEqual(model.ranges());
      expect((await this.#disk.bitmaps.list()).find((one) => one.name === name)).toMatchObject({
        enabled,
        consistent: true,
      });
    }
  }

  async end(): Promise<void> {
    await this.#disk.close();
    await Promise.all(this.#compactions);
    await this.#side.close();
    await judgeByQemu(this.image);
    for (const base of this.#bases) await judgeByQemu(asImage(base, this.#path(base.name)), base.format);
  }

  get #features(): { dataFile: boolean; encrypted: boolean } {
    const { dataFile, encryption } = this.image.kind.options;
    return { dataFile: dataFile !== undefined, encrypted: encryption !== undefined };
  }

  get #openOptions(): OpenOptions {
    return { mode: 'r+', resolve: 'same-directory', ...(this.#features.encrypted ? { secret } : {}) };
  }

  /** Runs a change that must fail with one of these codes. */
  async #refused(run: () => Promise<unknown>, ...codes: string[]): Promise<void> {
    await expect(run()).rejects.toSatisfy((error: { code?: string }) => codes.includes(error.code ?? ''));
  }

  /** Runs a change that may be refused with a code; false when it was. */
  async #mayBeRefused(run: () => Promise<unknown>, code: string): Promise<boolean> {
    try {
      await run();
      return true;
    } catch (error) {
      expect(error).toMatchObject({ code });
      return false;
    }
  }

  /** Runs a change that narrow refcounts may refuse; false when they did. */
  async #unlessNarrow(run: () => Promise<unknown>): Promise<boolean> {
    if (this.image.refcountBits < 16) return this.#mayBeRefused(run, 'ERR_QCOW2_LIMIT');
    await run();
    return true;
  }

  async #makeBases(size: number): Promise<void> {
    for (const [name, format, share] of [
      ['one', 'qcow2', 1],
      ['two', 'raw', 0.7],
      ['three', 'qcow2', 1.3],
    ] as const) {
      const base: BaseFile = { name, format, model: new PlainDisk(512 * Math.floor((size * share) / 512)) };
      const file = this.#path(name);
      const options = name === 'three' ? ['-o', 'cluster_size=4k'] : [];
      await qemuImg(['create', '-q', '-f', format, ...options, file, String(base.model.size)]);
      await writeByQemu(file, base.model, format, this.#random, () => undefined);
      this.#bases.push(base);
    }
  }

  /** Puts the new disk on a backing file whose content shows through at once. */
  async #startOnBase(): Promise<void> {
    const base = this.#random.pick(this.#bases as [BaseFile, ...BaseFile[]]);
    await this.#disk.rebase({ name: base.name, format: base.format }, { mode: 'unsafe' });
    await this.#disk.close();
    this.#disk = await open(this.image.path, this.#openOptions);
    const shown = Math.min(base.model.size, this.image.disk.size);
    this.image.disk.write(base.model.read(0, shown), 0);
    this.image.backing = base;
  }

  #place(): { start: number; length: number } {
    const { size } = this.image.disk;
    const length = Math.min(size, this.#random.between(1, 120) * 512);
    return { start: this.#random.below((size - length) / 512 + 1) * 512, length };
  }

  async #write(): Promise<string> {
    const { disk: model, kind } = this.image;
    const { start, length } = this.#place();
    const choice = this.#random.below(5);
    if (choice === 0 || choice === 1) {
      await (choice === 0 ? this.#disk.writeZeroes(start, length) : this.#disk.discard(start, length));
      model.zero(start, length);
    } else if (choice === 2 && !this.#features.dataFile && !this.#features.encrypted) {
      const cluster = kind.options.clusterSize ?? 65536;
      const first = start - (start % cluster);
      const data = contentFor(this.#random.below(1000), Math.min(cluster, model.size - first));
      await this.#disk.write(data, first, { compress: true });
      model.write(data, first);
      mark(this.image, first, data.length);
      return `compress ${first}`;
    } else {
      const data = pattern(this.#random.next(), length);
      await this.#disk.write(data, start);
      model.write(data, start);
    }
    mark(this.image, start, length);
    return `write ${choice} ${start}+${length}`;
  }

  async #resize(): Promise<string> {
    const size = 512 * this.#random.between(...this.image.kind.sectors);
    if (this.image.version === 2 && this.image.snapshots.size > 0 && size !== this.image.disk.size) {
      await this.#refused(() => this.#disk.resize(size, { shrink: true }), 'ERR_QCOW2_CONFLICT');
      return 'resize refused';
    }
    await this.#disk.resize(size, { shrink: true });
    this.#resized(size);
    return `resize ${size}`;
  }

  #resized(size: number): void {
    this.image.disk.resize(size);
    for (const { model } of this.image.bitmaps.values()) model.resize(size);
  }

  async #reopen(): Promise<string> {
    await this.#disk.close();
    await judgeByQemu(this.image);
    const done =
      this.#random.chance(0.6) && !this.#features.encrypted
        ? await changeByQemu(this.image, this.#random, () => `q${(this.#names += 1)}`)
        : 'nothing';
    this.#disk = await open(this.image.path, this.#openOptions);
    return `reopen (qemu: ${done})`;
  }

  async #makeSnapshot(): Promise<string> {
    const { snapshots, disk } = this.image;
    if (this.#features.dataFile) {
      await this.#refused(() => this.#disk.snapshots.create({ name: 's' }), 'ERR_QCOW2_CONFLICT');
      return 'snapshot refused';
    }
    if (snapshots.size >= 5) return this.#deleteSnapshot();
    const name = `s${(this.#names += 1)}`;
    if (await this.#unlessNarrow(() => this.#disk.snapshots.create({ name }))) {
      snapshots.set(name, disk.clone());
    }
    return `snapshot ${name}`;
  }

  async #applySnapshot(): Promise<string> {
    const { snapshots, bitmaps } = this.image;
    const known = [...snapshots].filter(([, model]) => model !== null);
    if (known.length === 0) {
      await this.#refused(
        () => this.#disk.snapshots.apply('none'),
        'ERR_QCOW2_NOT_FOUND',
        'ERR_QCOW2_CONFLICT',
      );
      return 'nothing to apply';
    }
    const [name, model] = this.#random.pick(known as [(typeof known)[0], ...typeof known]);
    if (bitmaps.size > 0) {
      await this.#refused(() => this.#disk.snapshots.apply(name), 'ERR_QCOW2_CONFLICT');
      for (const bitmap of bitmaps.keys()) await this.#disk.bitmaps.remove(bitmap);
      bitmaps.clear();
    }
    if (await this.#unlessNarrow(() => this.#disk.snapshots.apply(name))) {
      this.image.disk = model?.clone() ?? this.image.disk;
    }
    return `apply ${name}`;
  }

  async #deleteSnapshot(): Promise<string> {
    const names = [...this.image.snapshots.keys()];
    const name = names[this.#random.below(names.length)];
    if (name === undefined) return 'nothing to delete';
    await this.#disk.snapshots.delete(name);
    this.image.snapshots.delete(name);
    return `delete ${name}`;
  }

  async #changeBitmaps(): Promise<string> {
    const { bitmaps, disk, version } = this.image;
    const names = [...bitmaps.keys()];
    const name = names[this.#random.below(names.length)];
    const found = bitmaps.get(name ?? '');
    const kind = this.#random.below(8);
    if (name === undefined || found === undefined || (kind === 0 && names.length < 5)) {
      const made = `b${(this.#names += 1)}`;
      const granularity = 2 ** this.#random.between(9, 17);
      const enabled = this.#random.chance(0.8);
      const make = (): Promise<void> =>
        this.#disk.bitmaps.create({ name: made, granularity, disabled: !enabled });
      if (version === 2) {
        await this.#refused(make, 'ERR_QCOW2_CONFLICT');
        return 'bitmap refused';
      }
      await make();
      bitmaps.set(made, { model: new PlainBitmap(disk.size, granularity), enabled });
      return `bitmap ${made}`;
    }
    if (kind <= 1) {
      await this.#disk.bitmaps.remove(name);
      bitmaps.delete(name);
    } else if (kind === 2) {
      await this.#disk.bitmaps.clear(name);
      found.model.clear();
    } else if (kind <= 4) {
      found.enabled = !found.enabled;
      await (found.enabled ? this.#disk.bitmaps.enable(name) : this.#disk.bitmaps.disable(name));
    } else if (kind <= 6) {
      const other = this.#random.pick(names as [string, ...string[]]);
      await this.#disk.bitmaps.merge(name, [other]);
      for (const { start, length } of bitmaps.get(other)?.model.ranges() ?? [])
        found.model.set(start, length);
    } else {
      await this.#disk.bitmaps.merge(name, [{ disk: this.#side, name: 'side' }]);
      found.model.set(sideRange.start, sideRange.length);
      found.model.resize(disk.size);
    }
    return `bitmap change ${kind} of ${name}`;
  }

  async #amend(): Promise<string> {
    const { version, bitmaps, snapshots, kind } = this.image;
    const choice = this.#random.below(4);
    if (choice === 0) {
      const wanted = version === 2 ? 3 : 2;
      const { extendedL2, compressionType } = kind.options;
      const isBound =
        bitmaps.size > 0 || extendedL2 === true || compressionType === 'zstd' || this.#features.dataFile;
      const run = (): Promise<void> => this.#disk.amend({ version: wanted, refcountBits: 16 });
      if (wanted === 2 && isBound) {
        await this.#refused(run, 'ERR_QCOW2_CONFLICT');
        return 'version 2 refused';
      }
      // Snapshots may have what version 2 cannot express.
      if (snapshots.size === 0) await run();
      else if (!(await this.#mayBeRefused(run, 'ERR_QCOW2_CONFLICT')))
        return 'version 2 refused for snapshots';
      this.image.version = wanted;
      this.image.refcountBits = 16;
      return `amend version ${wanted}`;
    }
    if (choice === 1) {
      const bits = this.#random.pick([8, 16, 32, 64]);
      const run = (): Promise<void> => this.#disk.amend({ refcountBits: bits });
      if (version === 2 && bits !== 16) await this.#refused(run, 'ERR_QCOW2_CONFLICT');
      else {
        const before = this.image.refcountBits;
        this.image.refcountBits = bits;
        if (!(await this.#unlessNarrow(run))) this.image.refcountBits = before;
      }
      return `amend refcounts ${bits}`;
    }
    if (choice === 2) {
      const on = this.#random.chance(0.5);
      const run = (): Promise<void> => this.#disk.amend({ lazyRefcounts: on });
      await (version === 2 && on ? this.#refused(run, 'ERR_QCOW2_CONFLICT') : run());
      return `amend lazy ${String(on)}`;
    }
    if (version === 2 && snapshots.size > 0) return 'no amend';
    const size = this.image.disk.size + 512 * this.#random.below(100);
    await this.#disk.amend({ size });
    this.#resized(size);
    return `amend size ${size}`;
  }

  async #commit(): Promise<string> {
    const { backing, disk } = this.image;
    if (backing === null) {
      await this.#refused(() => this.#disk.commit(), 'ERR_QCOW2_CONFLICT');
      return 'commit refused';
    }
    await this.#disk.commit();
    if (backing.model.size < disk.size) backing.model.resize(disk.size);
    backing.model.write(disk.read(0, disk.size), 0);
    this.#forgetSnapshots();
    return `commit to ${backing.name}`;
  }

  /** Beside whatever comes next, or not. */
  async #compact(awaited: boolean): Promise<string> {
    const compaction = this.#disk.compact();
    compaction.catch(() => undefined);
    this.#compactions.push(compaction);
    if (awaited) await compaction;
    return 'compact';
  }

  async #rebase(): Promise<string> {
    const { backing, kind } = this.image;
    if (kind.chain === 'none') return 'no rebase';
    if (backing !== null && this.#random.chance(0.3)) {
      // The same content under another name.
      const copy: BaseFile = { ...backing, name: `copy${(this.#names += 1)}`, model: backing.model.clone() };
      await copyFile(this.#path(backing.name), this.#path(copy.name));
      await this.#disk.rebase({ name: copy.name, format: copy.format }, { mode: 'unsafe' });
      this.#bases.push(copy);
      this.image.backing = copy;
      return `unsafe rebase to ${copy.name}`;
    }
    const to = this.#random.chance(0.25) ? null : this.#random.pick(this.#bases as [BaseFile, ...BaseFile[]]);
    const compress = this.#random.chance(0.3);
    const run = (): Promise<void> =>
      this.#disk.rebase(to && { name: to.name, format: to.format }, { compress });
    if (compress && (this.#features.encrypted || this.#features.dataFile)) {
      await this.#refused(run, 'ERR_QCOW2_CONFLICT');
      return 'compressing rebase refused';
    }
    await run();
    this.image.backing = to;
    this.#forgetSnapshots();
    return `rebase to ${to?.name ?? 'none'}`;
  }

  #forgetSnapshots(): void {
    for (const name of this.image.snapshots.keys()) this.image.snapshots.set(name, null);
  }
}

const differenceOf = (model: PlainDisk, disk: Disk): Promise<string | null> =>
  model.firstDifference((buffer, at) => disk.read(buffer, at));
