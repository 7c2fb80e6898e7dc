/**
 * The persistent bitmaps of an open image, kept true: before guest bytes first change, the enabled ones are marked IN_USE
 * in the file; then bits are set in memory; closing stores them and takes the mark off. A crash leaves the mark.
 *
 *   IN_USE | guest changes, bits, tables | directory without IN_USE | free what the new tables do not name
 */
import { quote } from '../format/text.js';
import { Qcow2Error } from '../errors.js';
import { bitmapFlags, bitmapObstacle, type BitmapEntry } from '../format/bitmap-directory.js';
import { withFeature } from '../format/features.js';
import { tableEntrySize } from '../format/geometry.js';
import { alignUp } from '../format/units.js';
import { BitmapBits } from './bitmap-bits.js';
import { readBitmapDirectory, replaceBitmapDirectory, writeBitmapFlags } from './bitmap-directory-io.js';
import { BitmapTable, type BitmapHome, type KnownReferences } from './bitmap-table.js';
import { ClusterSet } from './cluster-set.js';
import type { Image } from './image.js';
import { Mutex } from './mutex.js';

/** Bits in memory, bytes, past which they are written to the file between requests. */
const maxResidentBytes = 32 * 1024 * 1024;

/** Tables in memory, bytes; bitmaps past that are marked as in use and left alone, as damaged ones are. */
const maxTableBytes = 64 * 1024 * 1024;

/** One bitmap of the image. */
export interface BitmapState {
  readonly entry: BitmapEntry;
  /** Whether its table lies where that of another bitmap is, too, so that no bit in it can be told to be its own. */
  readonly confused: boolean;
  /** Its bits, once they were asked for. */
  readonly bits: BitmapBits | null;
  /** Whether its IN_USE flag in the file is there on account of this image being open, and the bits here are right. */
  readonly held: boolean;
}

/** Counts all references in the file of an image in which nothing waits in memory; null when that cannot be done or costs too much. */
export type ReferenceSource = (image: Image) => Promise<KnownReferences | null>;

export class DirtyBitmaps {
  readonly home: BitmapHome;
  readonly #image: Image;
  readonly #references: ReferenceSource;
  readonly #mutex = new Mutex();
  /** Jobs that hold or await the mutex. While there are any, nothing is set beside them. */
  #jobs = 0;
  #states: BitmapState[] | undefined;
  /** The bits of the enabled bitmaps while all of these are marked and followed; else undefined. */
  #recorded: BitmapBits[] | undefined;
  /** Whether all that the bitmaps had when the image was opened was looked at for what is their own. */
  #adopted = false;

  constructor(image: Image, references: ReferenceSource) {
    this.home = { image, own: new ClusterSet() };
    this.#image = image;
    this.#references = references;
  }

  /**
   * Called before guest bytes [start, end) change. Resolves when they may.
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` when an enabled bitmap is of a kind that this package cannot keep true
   */
  changing(start: number, end: number): Promise<void> | undefined {
    if (this.#image.header.bitmaps === null || start >= end) return undefined;
    if (this.#jobs === 0 && this.#recorded?.every((bits) => bits.setNow(start, end)) === true)
      return undefined;
    return this.run(() => this.#record(start, end));
  }

  /**
   * Called before the size of the disk changes.
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` when a bitmap cannot follow
   */
  async resizing(size: number): Promise<void> {
    if (this.#image.header.bitmaps === null) return;
    await this.run(async () => {
      const states = await this.#loadOrDistrust();
      const usable = states.filter((state) => !isInUse(state));
      const obstacle = usable.map(({ entry }) => unusable(entry)).find((error) => error !== null);
      if (obstacle !== undefined) throw obstacle;
      if (size === 0 && usable.length > 0) {
        throw new Qcow2Error(
          'ERR_QCOW2_CONFLICT',
          'A disk of 0 bytes cannot have bitmaps; remove them first',
          {
            feature: 'bitmaps',
          },
        );
      }
      await this.#hold(() => true);
      // Larger before the disk is, so that no write to the new part goes unseen.
      if (size > this.#image.header.size) await this.#resize(size);
    });
  }

  /** Called after the size of the disk changed, or was to change and did not. */
  async resized(): Promise<void> {
    if (this.#image.header.bitmaps === null) return;
    await this.run(() => this.#resize(this.#image.header.size));
  }

  /** Stores all bits and takes the IN_USE marks off. Everything the guest changed has been committed before. */
  save(): Promise<void> {
    return this.run(() => this.#save());
  }

  /** Runs a job that reads or changes bitmaps, alone. */
  async run<T>(job: () => Promise<T>): Promise<T> {
    this.#jobs++;
    try {
      return await this.#mutex.run(job);
    } finally {
      this.#jobs--;
    }
  }

  /** The bitmaps in the order of the directory. For jobs of {@link run}. */
  async load(): Promise<readonly BitmapState[]> {
    if (this.#states !== undefined) return this.#states;
    const entries = await readBitmapDirectory(this.#image);
    const confused = overlapping(entries, this.#image.geometry.clusterSize);
    return (this.#states = entries.map((entry) => ({
      entry,
      confused: confused.has(entry),
      bits: null,
      held: false,
    })));
  }

  /**
   * The bits of a bitmap, which stay right as long as the job runs. For jobs of {@link run}.
   * @throws Qcow2Error when the bitmap is not to be trusted or damaged
   */
  async bitsOf(state: BitmapState): Promise<BitmapBits> {
    if (state.bits !== null) return state.bits;
    const obstacle = unusable(state.entry);
    if (obstacle !== null) throw obstacle;
    if (isInUse(state)) {
      throw new Qcow2Error(
        'ERR_QCOW2_CONFLICT',
        `The bitmap ${quote(state.entry.name)} is inconsistent: it was not saved after its last use. ` +
          'Treat everything as dirty, remove it and make a new one',
        { feature: 'bitmap directory' },
      );
    }
    if (state.confused) {
      throw new Qcow2Error(
        'ERR_QCOW2_CORRUPT',
        `The table of the bitmap ${quote(state.entry.name)} overlaps that of another bitmap. ` +
          'Treat everything as dirty and remove both',
        { offset: state.entry.tableOffset, feature: 'bitmap directory' },
      );
    }
    return BitmapBits.load(this.home, state.entry);
  }

  /** Runs a job that changes the list of bitmaps, alone, after all of it was stored. It ends with {@link replace}, if any. */
  edit<T>(job: (states: readonly BitmapState[]) => Promise<T>): Promise<T> {
    return this.run(async () => {
      await this.#save();
      return job(await this.load());
    });
  }

  /** Runs a job that moves what the bitmaps have in the file, alone, after all of it was stored. */
  moving(job: () => Promise<void>): Promise<void> {
    return this.run(async () => {
      await this.#save();
      try {
        await job();
      } finally {
        this.#forget();
        this.home.own.clear();
        this.#adopted = false;
      }
    });
  }

  /**
   * Replaces the list of bitmaps, in one step that a crash cannot split. For jobs of {@link edit}.
   * @param list entries, with bits where these are new
   * @param dropped bits that nothing refers to then
   */
  async replace(
    list: readonly { entry: BitmapEntry; bits: BitmapBits | null }[],
    dropped: readonly { readonly table: BitmapTable }[],
  ): Promise<void> {
    for (const { bits } of list) {
      await bits?.store();
      await bits?.table.place();
    }
    this.#forget();
    const entries = list.map(({ entry, bits }) => (bits === null ? entry : withTable(entry, bits)));
    await replaceBitmapDirectory(this.#image, entries);
    for (const { table } of dropped) table.dropAll();
    await this.#freeDropped(dropped);
  }

  /** Changes the flags of bitmaps in the file. For jobs of {@link edit}. */
  async setFlags(change: (entry: BitmapEntry) => number): Promise<void> {
    const before = entriesOf(await this.load());
    const after = before.map((entry) => ({ ...entry, flags: change(entry) }));
    this.#forget();
    await writeBitmapFlags(this.#image, before, after);
    await this.#image.committer.barrier();
  }

  async #resize(size: number): Promise<void> {
    for (const { held, bits } of this.#states ?? []) if (held) await bits?.resize(size);
  }

  #forget(): void {
    this.#states = undefined;
    this.#recorded = undefined;
  }

  async #record(start: number, end: number): Promise<void> {
    this.#recorded ??= await this.#startRecording();
    for (const bits of this.#recorded) await bits.set(start, end);
    const resident = this.#recorded.reduce((sum, bits) => sum + bits.residentBytes, 0);
    if (resident > maxResidentBytes) for (const bits of this.#recorded) await bits.store();
  }

  async #startRecording(): Promise<BitmapBits[]> {
    const states = await this.#loadOrDistrust();
    const enabled = states.filter((state) => isEnabled(state.entry) && !isInUse(state));
    const obstacle = enabled.map(({ entry }) => unusable(entry)).find((error) => error !== null);
    if (obstacle !== undefined) throw obstacle;
    await this.#hold(isEnabled);
    return (this.#states ?? []).flatMap(({ entry, bits, held }) =>
      held && bits !== null && isEnabled(entry) ? [bits] : [],
    );
  }

  /** A directory that cannot be read cannot be kept true: what it holds is declared out of date. */
  async #loadOrDistrust(): Promise<readonly BitmapState[]> {
    try {
      return await this.load();
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      await this.#image.patchHeader({
        autoclear: withFeature(this.#image.header, 'bitmaps', false).autoclear,
      });
      await this.#image.committer.barrier();
      await this.#image.reloadHeader();
      return (this.#states = []);
    }
  }

  /** Loads and marks the bitmaps of a kind that are not in use yet; those that are damaged are marked and left alone. */
  async #hold(isMeant: (entry: BitmapEntry) => boolean): Promise<void> {
    const states = await this.load();
    const next: BitmapState[] = [];
    let tableBytes = states.reduce((sum, { bits }) => sum + (bits?.table.length ?? 0) * tableEntrySize, 0);
    for (const state of states) {
      if (!isMeant(state.entry) || isInUse(state)) next.push(state);
      else {
        const entry = { ...state.entry, flags: state.entry.flags | bitmapFlags.inUse };
        const wanted = entry.tableSize * tableEntrySize;
        const bits = tableBytes + wanted > maxTableBytes ? null : await this.#bitsOrNull(state);
        if (bits !== null) tableBytes += wanted;
        next.push({ ...state, entry, bits, held: bits !== null });
      }
    }
    await writeBitmapFlags(this.#image, entriesOf(states), entriesOf(next));
    await this.#image.committer.barrier();
    this.#states = next;
  }

  async #bitsOrNull(state: BitmapState): Promise<BitmapBits | null> {
    try {
      return await this.bitsOf(state);
    } catch (error) {
      if (error instanceof Qcow2Error) return null;
      throw error;
    }
  }

  async #save(): Promise<void> {
    this.#recorded = undefined;
    const states = this.#states ?? [];
    const held = states.flatMap((state) => (state.held && state.bits !== null ? [state.bits] : []));
    if (held.length === 0) return;
    const { committer } = this.#image;
    for (const bits of held) {
      await bits.store();
      await bits.table.place();
    }
    await committer.settle();
    await committer.barrier();
    const saved = states.map((state) => {
      if (!state.held || state.bits === null) return state;
      const flags = state.entry.flags & ~bitmapFlags.inUse;
      return { ...state, entry: withTable({ ...state.entry, flags }, state.bits), bits: null, held: false };
    });
    const moves = saved.some(({ entry }, index) => !isSameTable(entry, states[index]?.entry));
    if (moves) await replaceBitmapDirectory(this.#image, entriesOf(saved));
    else {
      await committer.decisive(async () => {
        await writeBitmapFlags(this.#image, entriesOf(states), entriesOf(saved));
        await committer.barrier();
      });
    }
    this.#states = saved;
    await this.#freeDropped(held);
  }

  /** Gives free what bitmaps had before, unless something else in the file refers to it, too. */
  async #freeDropped(bitmaps: readonly { readonly table: BitmapTable }[]): Promise<void> {
    const isKnown = this.#adopted || !bitmaps.some(({ table }) => table.hasDroppedUnknown);
    const references = isKnown ? null : await this.#references(this.#image);
    for (const { table } of bitmaps) await table.freeDropped(references);
    if (references !== null) await this.#adopt(references);
    await this.#image.committer.settle();
  }

  /** Finds out what is the bitmaps' own, so that references are counted once and not at each change. */
  async #adopt(references: KnownReferences): Promise<void> {
    for (const { entry } of await this.load()) {
      try {
        (await BitmapTable.load(this.home, entry)).adopt(references);
      } catch (error) {
        // A damaged bitmap owns nothing.
        if (!(error instanceof Qcow2Error)) throw error;
      }
    }
    this.#adopted = true;
  }
}

export const isEnabled = ({ flags }: BitmapEntry): boolean => (flags & bitmapFlags.auto) !== 0;

/** Whether a bitmap is marked IN_USE, by this image being open or by someone who did not take the mark off. */
const isInUse = ({ entry }: BitmapState): boolean => (entry.flags & bitmapFlags.inUse) !== 0;

/** Whether a bitmap was not saved by whoever used it last. */
export const isInconsistent = (state: BitmapState): boolean => isInUse(state) && !state.held;

const isSameTable = (a: BitmapEntry, b: BitmapEntry | undefined): boolean =>
  a.tableOffset === b?.tableOffset && a.tableSize === b.tableSize;

const entriesOf = (states: readonly BitmapState[]): BitmapEntry[] => states.map(({ entry }) => entry);

const withTable = (entry: BitmapEntry, bits: BitmapBits): BitmapEntry => ({
  ...entry,
  tableOffset: bits.table.offset,
  tableSize: bits.table.length,
});

/** The bitmaps whose tables share clusters with those of others. */
function overlapping(entries: readonly BitmapEntry[], clusterSize: number): Set<BitmapEntry> {
  const found = new Set<BitmapEntry>();
  let last: { entry: BitmapEntry; end: number } | undefined;
  const placed = entries.filter(({ tableSize }) => tableSize > 0);
  for (const entry of placed.sort((a, b) => a.tableOffset - b.tableOffset)) {
    const end = entry.tableOffset + alignUp(entry.tableSize * tableEntrySize, clusterSize);
    if (last !== undefined && entry.tableOffset < last.end) found.add(entry).add(last.entry);
    if (last === undefined || end > last.end) last = { entry, end };
  }
  return found;
}

/** The error for a bitmap that must not be used because of what this package does not know about it, or null. */
function unusable(entry: BitmapEntry): Qcow2Error | null {
  const obstacle = bitmapObstacle(entry);
  if (obstacle === null) return null;
  return new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    `The bitmap ${quote(entry.name)} ${obstacle}, so it can neither be used nor kept true; remove it first`,
    { feature: 'bitmap directory' },
  );
}
