/** Persistent bitmaps: listing, making and changing them, and asking what is dirty. */
import type { ByteRange, Op } from '../disk.js';
import { invalidArgType, invalidArgValue, outOfRange, Qcow2Error } from '../errors.js';
import {
  bitmapFlags,
  bitmapName,
  bitmapObstacle,
  dirtyTrackingBitmap,
  maxBitmapNameBytes,
  maxGranularityBits,
  minGranularityBits,
  type BitmapEntry,
} from '../format/bitmap-directory.js';
import { hostOffset } from '../format/units.js';
import { queryRange } from '../io/disk-queries.js';
import { guestExtents } from '../io/extents.js';
import type { GuestImage } from '../io/guest-image.js';
import { setBits } from '../metadata/bit-page.js';
import { BitmapBits, type DirtyExtent } from '../metadata/bitmap-bits.js';
import { BitmapTable } from '../metadata/bitmap-table.js';
import { isEnabled, isInconsistent, type BitmapState } from '../metadata/dirty-bitmaps.js';
import type { CheckProgress } from './check/reader.js';
import { runsWithin } from './intersect.js';
import { JobParts, type PartedJob } from './jobs/parts.js';
import { quote } from '../format/text.js';

/** Bits looked at in one go. */
const bitsPerStep = 65536;

/** A persistent bitmap: which parts of the disk changed since it was made or cleared. */
export interface Bitmap {
  /** Its name, unique in the image. Untrusted text. */
  name: string;
  /** Guest bytes per bit. */
  granularity: number;
  /** Whether it records changes. */
  enabled: boolean;
  /** False when it must not be relied on: everything has to be taken for dirty. It can only be removed. */
  consistent: boolean;
  /** Why it is not consistent, or null. */
  problem: string | null;
}

/** A bitmap to be made. */
export interface CreateBitmapOptions {
  /** 1 to 1023 bytes of UTF-8, unique in the image. */
  name: string;
  /** Guest bytes per bit, a power of two from 512 to 2 GiB; the cluster size, within 4096 to 65536, by default. */
  granularity?: number;
  /** Makes a bitmap that does not record changes. */
  disabled?: boolean;
}

export interface BitmapQuery extends ByteRange, Op {
  /**
   * Leaves out what this image itself says nothing of, so that its backing file or nothing shows through. What was dropped
   * since, by a discard without a backing file, is left out, too: a copy that is brought up to date needs the ranges
   * without this option, or has to take what is left out for zeros.
   */
  allocated?: boolean;
}

/** Bits of a bitmap: bit i (bit i % 8, from the lowest, of byte i / 8) stands for `granularity` bytes from `start + i * granularity` on. */
export interface PackedBitmap {
  /** The guest byte for which the first bit stands. */
  start: number;
  /** Guest bytes per bit. */
  granularity: number;
  /** How many bits there are. */
  length: number;
  /** The bits, eight in a byte. */
  bits: Uint8Array;
}

/** A bitmap of this image, or of another open one, such as a layer below. */
export type BitmapSource =
  | string
  | {
      /** An open image; its size may be smaller than that of this one. */
      disk: {
        /** The bitmaps of that image. */
        readonly bitmaps: Bitmaps;
      };
      /** The bitmap's name in it. */
      name: string;
    };

/**
 * Runs a job on an open disk: `read` on any, `still` on any while no other job moves anything in the file, `change` on one
 * that can be written to.
 */
export interface Access {
  read: <T>(job: () => Promise<T>) => Promise<T>;
  still: <T>(job: () => Promise<T>) => Promise<T>;
  change: <T>(job: () => Promise<T>) => Promise<T>;
}

/** The persistent bitmaps of an image (section "Bitmaps" of the specification). */
export class Bitmaps {
  readonly #guest: GuestImage;
  readonly #access: Access;

  /** @internal */
  constructor(guest: GuestImage, access: Access) {
    this.#guest = guest;
    this.#access = access;
  }

  /** All bitmaps, in the order of the image. */
  list(): Promise<Bitmap[]> {
    return this.#access.read(() =>
      this.#guest.bitmaps.run(async () => {
        const states = await this.#guest.bitmaps.load();
        const list: Bitmap[] = [];
        for (const state of states) {
          const { name, granularityBits } = state.entry;
          const problem = await this.#problemOf(state);
          const enabled = isEnabled(state.entry);
          list.push({
            name,
            granularity: 2 ** granularityBits,
            enabled,
            consistent: problem === null,
            problem,
          });
        }
        return list;
      }),
    );
  }

  /**
   * Makes a bitmap without a dirty bit, durable when it resolves.
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` in a version 2 image or when there is one of that name; `ERR_QCOW2_LIMIT`
   */
  async create({ name, granularity, disabled = false }: CreateBitmapOptions): Promise<void> {
    const { geometry, header } = this.#guest.image;
    const names = checkName(name);
    const bytes = granularity ?? Math.max(4096, Math.min(65536, geometry.clusterSize));
    const granularityBits = Math.log2(bytes);
    if (
      !Number.isInteger(granularityBits) ||
      granularityBits < minGranularityBits ||
      granularityBits > maxGranularityBits
    ) {
      throw outOfRange('granularity', 'a power of two from 512 to 2147483648', granularity);
    }
    await this.#edit(async (states) => {
      if (header.version < 3)
        throw conflict('A version 2 image cannot have bitmaps; amend it to version 3 first');
      if (this.#guest.image.header.size === 0) throw conflict('A disk of 0 bytes cannot have bitmaps');
      if (states.some(({ entry }) => entry.name === name)) {
        throw conflict(`There is a bitmap ${quote(name)} already`);
      }
      const bits = BitmapBits.empty(this.#guest.bitmaps.home, granularityBits);
      const entry: BitmapEntry = {
        ...names,
        tableOffset: hostOffset(0),
        tableSize: 0,
        flags: disabled ? 0 : bitmapFlags.auto,
        type: dirtyTrackingBitmap,
        granularityBits,
        extraData: new Uint8Array(0),
      };
      await this.#guest.bitmaps.replace([...states.map(kept), { entry, bits }], []);
    });
  }

  /** Removes a bitmap, be it consistent or not. */
  async remove(name: string): Promise<void> {
    await this.#edit(async (states) => {
      const state = find(states, name);
      const dropped = await this.#tableOf(state);
      const others = states.filter((other) => other !== state).map(kept);
      await this.#guest.bitmaps.replace(others, dropped === null ? [] : [dropped]);
    });
  }

  /** Makes everything clean. */
  async clear(name: string): Promise<void> {
    await this.#edit(async (states) => {
      const state = find(states, name);
      await this.#replaceBits(
        states,
        state,
        BitmapBits.empty(this.#guest.bitmaps.home, state.entry.granularityBits),
      );
    });
  }

  /** Lets a bitmap record changes from now on. */
  enable(name: string): Promise<void> {
    return this.#setEnabled(name, true);
  }

  /** Stops a bitmap from recording changes. */
  disable(name: string): Promise<void> {
    return this.#setEnabled(name, false);
  }

  /**
   * Adds what is dirty in other bitmaps, of this or other images, of any granularity. Of a larger disk only what this one
   * has counts. Stopped, it leaves the bitmap as it was.
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`; `ERR_QCOW2_CONFLICT` for an inconsistent bitmap, `ERR_QCOW2_CORRUPT`; the
   * signal's reason
   */
  async merge(name: string, sources: readonly BitmapSource[], job: PartedJob = {}): Promise<void> {
    const { size } = this.#guest.image.header;
    const parts = new JobParts(job, size * (sources.length + 1));
    await this.#access.change(async () => {
      const granularityBits = await this.#granularityOf(name);
      const own: string[] = [];
      const others = BitmapBits.empty(this.#guest.bitmaps.home, granularityBits);
      for (const source of sources) {
        if (typeof source === 'string') own.push(source);
        else if (source.disk.bitmaps === this) own.push(source.name);
        else await source.disk.bitmaps.#mergeInto(others, source.name, parts.part(size));
      }
      await this.#guest.bitmaps.edit(async (states) => {
        const state = find(states, name);
        const merged = BitmapBits.empty(this.#guest.bitmaps.home, granularityBits);
        await merged.merge(others, parts.part(0));
        for (const source of [name, ...own]) {
          const bits = await this.#guest.bitmaps.bitsOf(find(states, source));
          await merged.merge(bits, parts.part(size));
        }
        parts.seal();
        await this.#replaceBits(states, state, merged);
      });
    });
    parts.finish();
  }

  /** Adds what is dirty in a bitmap of this image to bits that are nobody else's yet. */
  #mergeInto(target: BitmapBits, name: string, progress: CheckProgress): Promise<void> {
    return this.#access.read(() =>
      this.#guest.bitmaps.run(async () => {
        const state = find(await this.#guest.bitmaps.load(), name);
        await target.merge(await this.#guest.bitmaps.bitsOf(state), progress);
      }),
    );
  }

  /**
   * The dirty ranges, in order and merged, whole units of the granularity cut to the asked range.
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`; `ERR_QCOW2_CONFLICT` when the bitmap is inconsistent, `ERR_QCOW2_CORRUPT`
   */
  extents(name: string, query: BitmapQuery = {}): AsyncGenerator<DirtyExtent> {
    const dirty = this.#dirtyRuns(name, query);
    if (query.allocated !== true) return dirty;
    return runsWithin(dirty, (start, end) => this.#allocatedRuns(start, end, query));
  }

  /** The bits that stand for a range, which begins at the unit that holds `start`. */
  async bits(name: string, query: BitmapQuery = {}): Promise<PackedBitmap> {
    const granularity = await this.#unitOf(name);
    const { start, end } = queryRange(this.#guest.image.header.size, query);
    const first = Math.floor(start / granularity);
    const length = Math.max(0, Math.ceil(end / granularity) - first);
    const bits = new Uint8Array(Math.ceil(length / 8));
    for await (const run of this.extents(name, query)) {
      setBits(
        bits,
        Math.floor(run.start / granularity) - first,
        Math.ceil((run.start + run.length) / granularity) - first,
      );
    }
    return { start: first * granularity, granularity, length, bits };
  }

  async *#dirtyRuns(name: string, query: BitmapQuery): AsyncGenerator<DirtyExtent> {
    const { start, end } = queryRange(this.#guest.image.header.size, query);
    let last: DirtyExtent | undefined;
    let known: { state: BitmapState; bits: BitmapBits } | undefined;
    const step = (await this.#unitOf(name)) * bitsPerStep;
    let at = start;
    do {
      query.signal?.throwIfAborted();
      const from = at;
      const stop = Math.min(end, (Math.floor(at / step) + 1) * step);
      const runs = await this.#access.read(() =>
        this.#guest.bitmaps.run(async () => {
          const state = find(await this.#guest.bitmaps.load(), name);
          if (known?.state !== state) known = { state, bits: await this.#guest.bitmaps.bitsOf(state) };
          const found: DirtyExtent[] = [];
          for await (const run of known.bits.runs(from, stop)) found.push(run);
          return found;
        }),
      );
      for (const run of runs) {
        if (last !== undefined && last.start + last.length === run.start) last.length += run.length;
        else {
          if (last !== undefined) yield last;
          last = run;
        }
      }
      at = stop;
    } while (at < end);
    if (last !== undefined) yield last;
  }

  async *#allocatedRuns(start: number, end: number, { signal }: Op): AsyncGenerator<DirtyExtent> {
    const query = signal === undefined ? {} : { signal };
    for await (const extent of guestExtents(this.#guest, start, end, { layers: 'self', ...query })) {
      if (extent.type !== 'unallocated') yield { start: extent.start, length: extent.length };
    }
  }

  #edit(job: (states: readonly BitmapState[]) => Promise<void>): Promise<void> {
    return this.#access.change(() => this.#guest.bitmaps.edit(job));
  }

  async #setEnabled(name: string, on: boolean): Promise<void> {
    await this.#edit(async (states) => {
      const state = find(states, name);
      await this.#guest.bitmaps.bitsOf(state);
      await this.#guest.bitmaps.setFlags((entry) => {
        if (entry !== state.entry) return entry.flags;
        return on ? entry.flags | bitmapFlags.auto : entry.flags & ~bitmapFlags.auto;
      });
    });
  }

  async #replaceBits(states: readonly BitmapState[], state: BitmapState, bits: BitmapBits): Promise<void> {
    const old = await this.#guest.bitmaps.bitsOf(state);
    const list = states.map((other) => (other === state ? { entry: state.entry, bits } : kept(other)));
    await this.#guest.bitmaps.replace(list, [old]);
  }

  /** Guest bytes per bit of a bitmap whose bits can be asked for, so that memory for them may be taken. */
  #unitOf(name: string): Promise<number> {
    return this.#access.read(() =>
      this.#guest.bitmaps.run(async () => {
        const state = find(await this.#guest.bitmaps.load(), name);
        await this.#guest.bitmaps.bitsOf(state);
        return 2 ** state.entry.granularityBits;
      }),
    );
  }

  #granularityOf(name: string): Promise<number> {
    return this.#guest.bitmaps.run(
      async () => find(await this.#guest.bitmaps.load(), name).entry.granularityBits,
    );
  }

  async #problemOf(state: BitmapState): Promise<string | null> {
    if (isInconsistent(state)) return 'was not saved after its last use';
    const obstacle = bitmapObstacle(state.entry);
    if (obstacle !== null) return obstacle;
    try {
      await this.#guest.bitmaps.bitsOf(state);
      return null;
    } catch (error) {
      if (error instanceof Qcow2Error) return error.message;
      throw error;
    }
  }

  /** The table of a bitmap that is to go, or null when it cannot be told what belongs to it. */
  async #tableOf({ entry }: BitmapState): Promise<{ table: BitmapTable } | null> {
    try {
      return { table: await BitmapTable.loadUnused(this.#guest.bitmaps.home, entry) };
    } catch (error) {
      if (error instanceof Qcow2Error) return null;
      throw error;
    }
  }
}

const kept = ({ entry }: BitmapState): { entry: BitmapEntry; bits: null } => ({ entry, bits: null });

function find(states: readonly BitmapState[], name: string): BitmapState {
  const state = states.find(({ entry }) => entry.name === name);
  if (state !== undefined) return state;
  throw new Qcow2Error('ERR_QCOW2_NOT_FOUND', `There is no bitmap ${quote(name)} in this image`, {
    feature: 'bitmap directory',
  });
}

function checkName(name: string): Pick<BitmapEntry, 'name' | 'nameBytes'> {
  if (typeof name !== 'string') throw invalidArgType('name', 'of type string', name);
  const both = bitmapName(name);
  if (both.nameBytes.length === 0 || both.nameBytes.length > maxBitmapNameBytes) {
    throw invalidArgValue('name', `must have 1 to ${maxBitmapNameBytes} bytes`, name);
  }
  return both;
}

const conflict = (message: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CONFLICT', message, { feature: 'bitmaps' });
