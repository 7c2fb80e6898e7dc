/**
 * The clusters of a compressed stream from its first data on, one after the other: packed streams, clusters that did not get
 * smaller, L2 tables behind the data they describe, and refcount blocks each behind the clusters it counts.
 */
import type { Geometry } from '../format/geometry.js';
import { native } from '../native.js';

/** Bytes handed on at once, unless clusters are larger. */
const outputBytes = 1024 * 1024;
/** Clusters stored as they are that wait until packed data has filled a cluster, so that they do not cut it short. */
const mostWaiting = 16;

/** A cluster that is stored as it is, and where to say so. */
interface Waiting {
  readonly bytes: Uint8Array;
  readonly placed: (host: number) => void;
}

export class Packing {
  /** The host cluster of each refcount block. */
  readonly blocks: number[] = [];
  readonly #shape: Geometry;
  /** Clusters at the beginning that are in use once: those before the data, and the refcount blocks right behind them. */
  readonly #fixed: number;
  readonly #waiting: Waiting[] = [];
  readonly #ready: Uint8Array[] = [];
  #output: Uint8Array;
  #outputUsed = 0;
  /** The cluster that comes next. */
  #next: number;
  /** The refcount block for the clusters that come now. */
  #block: Uint8Array;
  /** The cluster that packed data goes into; it will be the next one. */
  #open: Uint8Array;
  #openUsed = 0;
  #openCount = 0;

  /** @param front clusters before the data: header, refcount table, L1 table */
  constructor(shape: Geometry, front: number) {
    this.#shape = shape;
    this.#next = front;
    let early = 0;
    while (front + early >= (early + 1) * shape.refcountBlockEntries - 1) early += 1;
    this.#fixed = front + early;
    this.#output = new Uint8Array(Math.max(outputBytes, shape.clusterSize));
    this.#open = new Uint8Array(shape.clusterSize);
    this.#block = this.#newBlock();
  }

  /** The cluster that comes next. */
  get next(): number {
    return this.#next;
  }

  /** Takes what is ready to be handed on. */
  take(): Uint8Array[] {
    return this.#ready.splice(0);
  }

  /** Adds packed data, shorter than a cluster; returns its offset in the stream. */
  pack(stream: Uint8Array): number {
    const { clusterSize, maxRefcount } = this.#shape;
    const spans = this.#openUsed + stream.length > clusterSize;
    const mustClose = spans && (this.#waiting.length > 0 || this.#isBlockPlace(this.#next + 1));
    if (mustClose || this.#openCount >= maxRefcount) this.close();
    if (this.#openUsed === 0) this.#passBlocks();
    const host = this.#next * clusterSize + this.#openUsed;
    const head = Math.min(stream.length, clusterSize - this.#openUsed);
    this.#append(stream.subarray(0, head));
    // At once, also where the stream ends right there: the next one must not be counted in a cluster it has nothing in.
    if (this.#openUsed === clusterSize) this.close();
    if (head < stream.length) this.#append(stream.subarray(head));
    return host;
  }

  /** Adds a cluster as it is; `placed` is told its offset in the stream, at once or before {@link close} returns. */
  store(bytes: Uint8Array, placed: (host: number) => void): void {
    this.#waiting.push({ bytes, placed });
    if (this.#openUsed === 0 || this.#waiting.length >= mostWaiting) this.close();
  }

  /** Ends the cluster that packed data goes into, and adds all that waits. */
  close(): void {
    if (this.#openUsed > 0) this.#emitOpen();
    for (const { bytes, placed } of this.#waiting.splice(0)) placed(this.#emit(bytes, 1));
  }

  /** Adds a table; returns its cluster. Nothing may wait. */
  table(bytes: Uint8Array): number {
    return this.#emit(bytes, 1) / this.#shape.clusterSize;
  }

  /** Adds the refcount blocks that are missing; returns how many clusters there are in all. */
  end(): number {
    this.close();
    this.#passBlocks();
    while (this.blocks.length * this.#shape.refcountBlockEntries < this.#next) this.#emitBlock();
    this.#handOn();
    return this.#next;
  }

  #append(bytes: Uint8Array): void {
    this.#open.set(bytes, this.#openUsed);
    this.#openUsed += bytes.length;
    this.#openCount += 1;
  }

  #emitOpen(): void {
    this.#emit(this.#open, this.#openCount);
    this.#open.fill(0);
    this.#openUsed = 0;
    this.#openCount = 0;
  }

  /** Adds a cluster with a refcount; returns its offset. */
  #emit(bytes: Uint8Array, refcount: number): number {
    this.#passBlocks();
    const { refcountOrder, refcountBlockEntries } = this.#shape;
    const index = this.#next - this.blocks.length * refcountBlockEntries;
    native.refcountSet(this.#block, refcountOrder, index, 1, refcount);
    return this.#write(bytes);
  }

  /** Adds the refcount blocks whose place this is. */
  #passBlocks(): void {
    while (this.#isBlockPlace(this.#next)) this.#emitBlock();
  }

  /** A block is the last of the clusters it counts; where these are before the data, it comes first of all. */
  #isBlockPlace(cluster: number): boolean {
    return cluster >= (this.blocks.length + 1) * this.#shape.refcountBlockEntries - 1;
  }

  #emitBlock(): void {
    const { refcountOrder, refcountBlockEntries, clusterSize } = this.#shape;
    const index = this.#next - this.blocks.length * refcountBlockEntries;
    if (index < refcountBlockEntries) native.refcountSet(this.#block, refcountOrder, index, 1, 1);
    this.blocks.push(this.#write(this.#block) / clusterSize);
    this.#block = this.#newBlock();
  }

  #newBlock(): Uint8Array {
    const { refcountOrder, refcountBlockEntries, clusterSize } = this.#shape;
    const block = new Uint8Array(clusterSize);
    const fixed = this.#fixed - this.blocks.length * refcountBlockEntries;
    if (fixed > 0) native.refcountSet(block, refcountOrder, 0, Math.min(fixed, refcountBlockEntries), 1);
    return block;
  }

  #write(cluster: Uint8Array): number {
    if (this.#outputUsed === this.#output.length) this.#handOn();
    this.#output.set(cluster, this.#outputUsed);
    this.#outputUsed += cluster.length;
    const host = this.#next * this.#shape.clusterSize;
    this.#next += 1;
    return host;
  }

  #handOn(): void {
    if (this.#outputUsed > 0) this.#ready.push(this.#output.subarray(0, this.#outputUsed));
    this.#output = new Uint8Array(this.#output.length);
    this.#outputUsed = 0;
  }
}
