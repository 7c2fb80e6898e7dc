/**
 * Does everything with one image that a user can, and holds the library to its word: errors have codes, an image opened
 * read-only does not change, and an image that checks clean stays clean and keeps its content through writes.
 */
import { open, Qcow2Error, MemoryStorage, type Qcow2 } from '../../lib/index.js';
import { WatchedStorage } from '../hostile/watched-storage.js';
import { pattern, type Random } from '../support/pattern.js';

/** What is read of a disk, which may claim to have petabytes. */
const readable = 2 ** 20;
const maxExtents = 2000;
const largestCopy = 2 ** 28;
const memoryLimit = 64 * 2 ** 20;

export interface Tally {
  refused: number;
  opened: number;
  clean: number;
  repaired: number;
}

/** Goes through one image. @throws when the library breaks its word */
export async function drive(bytes: Buffer, random: Random, tally: Tally): Promise<void> {
  const opened = await lookAt(bytes, random);
  tally[opened ? 'opened' : 'refused'] += 1;
  if (!opened) return;
  if (await writeTo(bytes, random)) tally.clean += 1;
  if (await repair(bytes)) tally.repaired += 1;
}

/** Runs a call of the library; undefined when it failed as it may: on a clean image not for damage. */
async function attempt<T>(call: () => Promise<T>, clean = false): Promise<T | undefined> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof Qcow2Error && !(clean && error.code === 'ERR_QCOW2_CORRUPT')) return undefined;
    if (error instanceof Qcow2Error)
      throw new Error(`damage in a clean image: ${error.message}`, { cause: error });
    throw new Error(`not a Qcow2Error: ${String(error)}`, { cause: error });
  }
}

async function lookAt(bytes: Buffer, random: Random): Promise<boolean> {
  const storage = new WatchedStorage(bytes);
  const disk = await attempt(() => open(storage));
  if (disk === undefined) return false;
  await readSome(disk, random);
  await attempt(() => disk.info());
  await attempt(() => countExtents(disk));
  await attempt(() => disk.check({ memoryLimit }));
  await attempt(() => disk.bitmaps.list());
  for (const { id } of ((await attempt(() => disk.snapshots.list())) ?? []).slice(0, 3)) {
    await attempt(async () => {
      const snapshot = await disk.snapshots.open(id);
      try {
        await snapshot.read(Buffer.alloc(Math.min(readable, snapshot.size)), 0);
      } finally {
        await snapshot.close();
      }
    });
  }
  await disk.close();
  if (storage.changes.length > 0) throw new Error(`reading changed the image: ${storage.changes.join(', ')}`);
  return true;
}

async function readSome(disk: Qcow2, random: Random): Promise<void> {
  const length = Math.min(readable, disk.size);
  for (const start of [0, disk.size - length, random.below(disk.size - length + 1)]) {
    if ((await attempt(() => readAt(disk, start, length))) !== undefined) continue;
    // One damaged cluster hides the others from a long read.
    for (let at = start; at < start + length; at += 64 * 1024) {
      await attempt(() => readAt(disk, at, Math.min(512, start + length - at)));
    }
  }
}

async function readAt(disk: Qcow2, start: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  await disk.read(buffer, start);
  return buffer;
}

async function countExtents(disk: Qcow2): Promise<void> {
  let at = 0;
  let count = 0;
  for await (const { start, length } of disk.extents()) {
    if (start !== at || length <= 0)
      throw new Error(`an extent of ${length} bytes at ${start}, expected at ${at}`);
    at += length;
    count += 1;
    if (count > maxExtents) return;
  }
  if (at !== disk.size) throw new Error(`the extents end at ${at}, the disk at ${disk.size}`);
}

/** Writes into a copy; resolves to whether it was clean before, and so was held against a model. */
async function writeTo(bytes: Buffer, random: Random): Promise<boolean> {
  const storage = new MemoryStorage(bytes);
  const disk = await attempt(() =>
    open(storage, { mode: 'r+', cacheBytes: random.pick([0, 2 ** 16, 2 ** 25]) }),
  );
  if (disk === undefined) return false;
  const before = await attempt(() => disk.check({ memoryLimit }));
  const bitmaps = await attempt(() => disk.bitmaps.list());
  const usable = bitmaps?.every(({ problem }) => problem === null) ?? false;
  const clean =
    usable && before !== undefined && before.corruptions + before.leaks + before.checkErrors === 0;
  const content = clean ? await attempt(() => readAt(disk, 0, Math.min(disk.size, readable))) : undefined;
  const model = content === undefined ? undefined : new Model(content);
  for (let i = random.between(3, 12); i > 0; i -= 1) await change(disk, random, model);
  await attempt(() => disk.close(), model !== undefined);
  const written = await bytesOf(storage);
  if (written === null) return false;
  const again = await attempt(() => open(new WatchedStorage(written)));
  if (model === undefined) {
    if (again !== undefined) await readSome(again, random);
    await again?.close();
    return false;
  }
  if (again === undefined) throw new Error('an image that was clean does not open after writing');
  await expectSound(again, model);
  await again.close();
  return true;
}

async function expectSound(disk: Qcow2, model: Model): Promise<void> {
  const report = await disk.check({ memoryLimit });
  // A write that failed for want of room may leave clusters behind, never more than that.
  if (report.corruptions + report.checkErrors > 0) {
    throw new Error(`writing damaged a clean image: ${JSON.stringify(report.findings.slice(0, 3))}`);
  }
  const length = Math.min(disk.size, model.bytes.length);
  const content = await readAt(disk, 0, length);
  const wrong = content.findIndex((byte, at) => model.isKnown(at) && byte !== model.bytes[at]);
  if (wrong >= 0)
    throw new Error(`guest byte ${wrong} is ${content[wrong] ?? -1}, not ${model.bytes[wrong] ?? -1}`);
}

/** The first part of the disk as it must read; unknown where a change failed half-way. */
class Model {
  readonly bytes: Buffer;
  readonly #unknown: [number, number][] = [];

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  isKnown(at: number): boolean {
    return this.#unknown.every(([start, end]) => at < start || at >= end);
  }

  forget(start: number, end: number): void {
    this.#unknown.push([start, end]);
  }

  set(start: number, data: Uint8Array): void {
    const room = Math.max(0, this.bytes.length - start);
    if (room > 0) this.bytes.set(data.subarray(0, room), start);
  }
}

type Change = 'write' | 'compress' | 'zero' | 'discard' | 'resize' | 'flush' | 'snapshot' | 'bitmap';
const changes: readonly [Change, ...Change[]] = [
  'write',
  'write',
  'write',
  'compress',
  'zero',
  'discard',
  'resize',
  'flush',
  'snapshot',
  'bitmap',
];

async function change(disk: Qcow2, random: Random, model: Model | undefined): Promise<void> {
  const clean = model !== undefined;
  const { clusterSize } = disk.header.geometry;
  const kind = random.pick(changes);
  const room = Math.min(disk.size, readable);
  const start = random.below(room + 1);
  const length = Math.min(random.below(4 * clusterSize), room - start);
  const apply = async (work: () => Promise<void>, at: number, data: Buffer): Promise<void> => {
    const done = await attempt(async () => {
      await work();
      return true;
    }, clean);
    if (done === true) model?.set(at, data);
    else model?.forget(at, at + data.length);
  };
  const data = pattern(random.next(), length);
  const zeros = Buffer.alloc(length);
  if (kind === 'write') await apply(() => disk.write(data, start), start, data);
  else if (kind === 'zero') await apply(() => disk.writeZeroes(start, length), start, zeros);
  else if (kind === 'discard') await apply(() => disk.discard(start, length), start, zeros);
  else if (kind === 'compress') {
    const at = start - (start % clusterSize);
    const squeezed = Buffer.alloc(Math.min(clusterSize, disk.size - at), data.subarray(0, 9).toString('hex'));
    if (squeezed.length > 0) await apply(() => disk.write(squeezed, at, { compress: true }), at, squeezed);
  } else if (kind === 'flush') await attempt(() => disk.flush(), clean);
  else if (kind === 'resize') await resize(disk, random, model);
  else if (kind === 'snapshot') await attempt(() => snapshot(disk, random), clean);
  else await attempt(() => bitmap(disk, random), clean);
}

async function resize(disk: Qcow2, random: Random, model: Model | undefined): Promise<void> {
  const { size } = disk;
  const target = Math.max(0, size + (random.below(9) - 4) * 40_000);
  await attempt(() => disk.resize(target, { shrink: true }), model !== undefined);
  // What was cut off is zeros when the disk grows again.
  if (model !== undefined && disk.size < size && disk.size < model.bytes.length)
    model.bytes.fill(0, disk.size);
  if (disk.size !== size && disk.size !== target) throw new Error(`a resize to ${target} made ${disk.size}`);
}

async function snapshot(disk: Qcow2, random: Random): Promise<void> {
  const list = await disk.snapshots.list();
  const chosen = list[random.below(list.length + 1)];
  if (chosen === undefined) await disk.snapshots.create({ name: `fuzz ${random.next()}` });
  else await disk.snapshots.delete(chosen.id);
}

async function bitmap(disk: Qcow2, random: Random): Promise<void> {
  const list = await disk.bitmaps.list();
  const chosen = list[random.below(list.length + 1)];
  if (chosen === undefined) await disk.bitmaps.create({ name: `fuzz ${random.next()}`, granularity: 4096 });
  else if (random.chance(0.5)) await disk.bitmaps.clear(chosen.name);
  else await disk.bitmaps.remove(chosen.name);
}

/** Repairs a copy; resolves to whether it is without corruptions then. */
async function repair(bytes: Buffer): Promise<boolean> {
  const storage = new MemoryStorage(bytes);
  const disk = await attempt(() => open(storage, { mode: 'r+', forRepair: true }));
  if (disk === undefined) return false;
  const report = await attempt(() => disk.check({ repair: 'all', memoryLimit }));
  await attempt(() => disk.close());
  if (report === undefined) return false;
  const repaired = await bytesOf(storage);
  if (repaired === null) return false;
  const again = await attempt(() => open(new WatchedStorage(repaired), { forRepair: true }));
  if (again === undefined) throw new Error('an image that opened does not open after its repair');
  const after = await attempt(() => again.check({ memoryLimit }));
  await again.close();
  return after !== undefined && after.corruptions + after.checkErrors === 0;
}

/** Null for a file too long to copy: refcounts that call all clusters used make it grow behind them, with a hole. */
async function bytesOf(storage: MemoryStorage): Promise<Buffer | null> {
  const size = await storage.size();
  if (size > largestCopy) return null;
  const bytes = Buffer.alloc(size);
  await storage.read(bytes, 0);
  return bytes;
}
