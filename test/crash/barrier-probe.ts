/** Stands before a recording and takes barriers out, told apart by the place in lib/ that they come from. */
import type { Storage } from '../../lib/index.js';
import type { RecordingStorage } from '../support/recording-storage.js';

/** What was written last since the barrier before, as far as that tells barriers of one place apart. */
type Written = 'nothing' | 'data' | 'header' | 'L1 table' | 'refcount table';

export class BarrierProbe implements Storage {
  readonly name: string;
  readonly readOnly = false;
  /** The places that barriers came from. */
  readonly sites = new Set<string>();
  /** When barriers were taken out, ticks of the log. */
  readonly removals: number[] = [];
  readonly #recording: RecordingStorage;
  readonly #removed: string | undefined;
  #last: Written = 'nothing';

  /** @param removed the place whose barriers do nothing */
  constructor(recording: RecordingStorage, removed?: string) {
    this.#recording = recording;
    this.#removed = removed;
    this.name = recording.name;
  }

  async flush(): Promise<void> {
    const site = `${callerOf(new Error().stack ?? '')} after ${this.#last}`;
    // A barrier with nothing before it has nothing to keep in order.
    if (this.#last !== 'nothing') this.sites.add(site);
    this.#last = 'nothing';
    if (site === this.#removed) this.removals.push(this.#recording.mark());
    else await this.#recording.flush();
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#recording.read(buffer, position);
  }

  async write(buffer: Uint8Array, position: number): Promise<void> {
    await this.writev([buffer], position);
  }

  async writev(buffers: readonly Uint8Array[], position: number): Promise<void> {
    const area = await this.#areaOf(position);
    this.#last = area;
    await this.#recording.writev(buffers, position);
    // A barrier that came meanwhile does not hold for it.
    this.#last = area;
  }

  truncate(size: number): Promise<void> {
    this.#last = 'data';
    return this.#recording.truncate(size);
  }

  punch(position: number, length: number): Promise<boolean> {
    this.#last = 'data';
    return this.#recording.punch(position, length);
  }

  size(): Promise<number> {
    return this.#recording.size();
  }

  close(): Promise<void> {
    return this.#recording.close();
  }

  async #areaOf(position: number): Promise<Written> {
    const header = Buffer.alloc(72);
    await this.#recording.read(header, 0);
    const clusterSize = 2 ** header.readUInt32BE(20);
    const l1 = Number(header.readBigUInt64BE(40));
    const refcountTable = Number(header.readBigUInt64BE(48));
    if (position < clusterSize) return 'header';
    if (position >= l1 && position < l1 + header.readUInt32BE(36) * 8) return 'L1 table';
    const isIn =
      position >= refcountTable && position < refcountTable + header.readUInt32BE(56) * clusterSize;
    return isIn ? 'refcount table' : 'data';
  }
}

/** The function and line that asked for the barrier: the first frame in lib/ that is not the barrier itself. */
function callerOf(stack: string): string {
  const frames = stack.split('\n').filter((line) => line.includes('/lib/') && !line.includes('.barrier '));
  const match = /at (?:async )?(?:(\S+) )?\(?.*\/(lib\/[^:]+:\d+)/.exec(frames[0] ?? '');
  return match === null ? 'unknown' : `${match[1] ?? 'anonymous'} ${match[2] ?? ''}`;
}
