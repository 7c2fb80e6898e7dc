/**
 * Going on with a long copy after a crash: from where everything before is durable, if what is copied has not changed since, and
 * the target is the one that has what was copied.
 */
import type { Disk } from '../../disk.js';
import { invalidArgType, invalidArgValue, outOfRange, Qcow2Error } from '../../errors.js';
import type { Storage } from '../../storage/storage.js';

/** How far a copy has come, for the caller to store. It is plain data. */
export interface Checkpoint {
  /** Bytes of the disk from its beginning whose copy is durable. */
  position: number;
  /** What the copied files were like; a resumed copy compares it. */
  state: string;
  /** Samples of what the target holds before `position`; a resumed copy compares them. */
  target: string;
}

/** Options of a job that can go on after a crash. */
export interface Resumable {
  /**
   * A checkpoint that an earlier run of the same copy has reported. What is copied is compared with what it was then, and so are
   * samples of the target: another file, or one made anew, is refused. That nobody wrote to the target meanwhile is for the
   * caller to see to. A commit that had begun to empty its image is refused too: it is begun again without a checkpoint.
   */
  resumeFrom?: Checkpoint;
  /** Called now and then, after the target was flushed; it may return a promise, for which the copy waits. */
  onCheckpoint?: (checkpoint: Checkpoint) => void | Promise<void>;
  /** Bytes copied between two checkpoints; 256 MiB by default. */
  checkpointBytes?: number;
}

/** Places of the target that are looked at, and how much of each, bytes. */
const sampleCount = 32;
const sampleBytes = 4096;

export const defaultInterval = 256 * 1024 * 1024;

export class Checkpoints {
  /** Where to begin, bytes. */
  readonly start: number;
  readonly #files: readonly Storage[];
  readonly #target: Disk;
  readonly #state: string | null;
  readonly #options: Resumable;
  #copied = 0;

  private constructor(files: readonly Storage[], target: Disk, state: string | null, options: Resumable) {
    this.#files = files;
    this.#target = target;
    this.#state = state;
    this.#options = options;
    this.start = options.resumeFrom?.position ?? 0;
  }

  /**
   * @param files all that is copied from
   * @param size of what is copied, bytes
   * @param target what is copied to
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` when a file has changed since the checkpoint or the target is another one, `ERR_QCOW2_UNSUPPORTED` when that
   * cannot be told; TypeError, RangeError for what is no checkpoint
   */
  static async begin(
    files: readonly Storage[],
    size: number,
    target: Disk,
    options: Resumable,
  ): Promise<Checkpoints> {
    const { resumeFrom, onCheckpoint, checkpointBytes = defaultInterval } = options;
    if (!Number.isSafeInteger(checkpointBytes) || checkpointBytes < 1) {
      throw outOfRange('checkpointBytes', 'an integer from 1 on', checkpointBytes);
    }
    const state = resumeFrom === undefined && onCheckpoint === undefined ? null : await stateOf(files);
    if (resumeFrom === undefined) return new Checkpoints(files, target, state, options);
    const { position, state: before, target: samples } = resumeFrom;
    if (typeof before !== 'string') throw invalidArgType('resumeFrom.state', 'of type string', before);
    if (typeof samples !== 'string') throw invalidArgType('resumeFrom.target', 'of type string', samples);
    if (!Number.isSafeInteger(position) || position < 0 || position > size) {
      throw outOfRange('resumeFrom.position', `an integer from 0 to ${size}`, position);
    }
    if (before !== state) throw changed();
    if ((await digestOf(target, placesIn(samples))) !== samples) throw otherTarget();
    return new Checkpoints(files, target, state, options);
  }

  /** Counts bytes that are being copied; true when it is time for {@link report}. */
  isDue(length: number): boolean {
    this.#copied += length;
    return (
      this.#options.onCheckpoint !== undefined &&
      this.#copied >= (this.#options.checkpointBytes ?? defaultInterval)
    );
  }

  /**
   * Makes everything durable and tells the caller.
   * @param position up to which everything has been copied
   */
  async report(position: number, flush: () => Promise<void>): Promise<void> {
    const { onCheckpoint } = this.#options;
    if (onCheckpoint === undefined || this.#state === null) return;
    this.#copied = 0;
    await flush();
    if ((await stateOf(this.#files)) !== this.#state) throw changed();
    const target = await digestOf(this.#target, await samplePlaces(this.#target, position));
    await onCheckpoint({ position, state: this.#state, target });
  }
}

async function stateOf(files: readonly Storage[]): Promise<string> {
  const states: string[] = [];
  for (const file of files) {
    if (file.state === undefined) {
      throw new Qcow2Error(
        'ERR_QCOW2_UNSUPPORTED',
        `${file.name} cannot tell whether it has changed, so a copy of it cannot be resumed: copy it in one go`,
        { feature: 'checkpoint' },
      );
    }
    states.push(await file.state());
  }
  return states.join(' ');
}

/** Where the target has data, spread over all that has been copied: an empty file in its place has none there. */
async function samplePlaces(target: Disk, end: number): Promise<number[]> {
  const places = new Set<number>();
  for (let index = 0; index < sampleCount; index += 1) {
    const from = Math.floor((Math.min(end, target.size) * index) / sampleCount);
    const place = await target.nextData(from);
    if (place !== null && place + sampleBytes <= end) places.add(place);
  }
  return [...places];
}

/** Places and a hash of what is there: `PLACE,PLACE,...:SHA-256`. What is past the end of the target counts as nothing. */
async function digestOf(target: Disk, places: readonly number[]): Promise<string> {
  const { createHash } = await import('node:crypto');
  const hash = createHash('sha256');
  for (const place of places) {
    const bytes = new Uint8Array(Math.min(sampleBytes, Math.max(0, target.size - place)));
    await target.read(bytes, Math.min(place, target.size));
    hash.update(bytes);
  }
  return `${places.join(',')}:${hash.digest('hex')}`;
}

function placesIn(samples: string): number[] {
  const [list = ''] = samples.split(':');
  const places = list === '' ? [] : list.split(',').map(Number);
  const isSound =
    places.length <= sampleCount && places.every((place) => Number.isSafeInteger(place) && place >= 0);
  if (!isSound) throw invalidArgValue('resumeFrom.target', 'must be what a checkpoint had', samples);
  return places;
}

const otherTarget = (): Qcow2Error =>
  new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    'The target does not hold what was copied before the checkpoint: it is another one, or was made anew. Begin again without it',
    { feature: 'checkpoint' },
  );

const changed = (): Qcow2Error =>
  new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    'What is copied has changed since the checkpoint, so what was copied before may be out of date: begin again without it',
    { feature: 'checkpoint' },
  );
