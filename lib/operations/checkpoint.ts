/** Going on with a long copy after a crash: from where everything before is durable, if what is copied has not changed since. */
import { invalidArgType, outOfRange, Qcow2Error } from '../errors.js';
import type { Storage } from '../storage/storage.js';

/** How far a copy has come, for the caller to store. It is plain data. */
export interface Checkpoint {
  /** Bytes of the disk from its beginning whose copy is durable. */
  position: number;
  /** What the copied files were like; a resumed copy compares it. */
  state: string;
}

/** Options of a job that can go on after a crash. */
export interface Resumable {
  /**
   * A checkpoint that an earlier run of the same copy has reported. What is copied is compared with what it was then; that the
   * target still has what that run wrote is for the caller to see to.
   */
  resumeFrom?: Checkpoint;
  /** Called now and then, after the target was flushed; it may return a promise, for which the copy waits. */
  onCheckpoint?: (checkpoint: Checkpoint) => void | Promise<void>;
  /** Bytes copied between two checkpoints; 256 MiB by default. */
  checkpointBytes?: number;
}

const defaultInterval = 256 * 1024 * 1024;

export class Checkpoints {
  /** Where to begin, bytes. */
  readonly start: number;
  readonly #files: readonly Storage[];
  readonly #state: string | null;
  readonly #options: Resumable;
  #copied = 0;

  private constructor(files: readonly Storage[], state: string | null, options: Resumable) {
    this.#files = files;
    this.#state = state;
    this.#options = options;
    this.start = options.resumeFrom?.position ?? 0;
  }

  /**
   * @param files all that is copied from
   * @throws Qcow2Error `ERR_QCOW2_CONFLICT` when a file has changed since the checkpoint, `ERR_QCOW2_UNSUPPORTED` when that
   * cannot be told; TypeError, RangeError for what is no checkpoint
   */
  static async begin(files: readonly Storage[], size: number, options: Resumable): Promise<Checkpoints> {
    const { resumeFrom, onCheckpoint, checkpointBytes = defaultInterval } = options;
    if (!Number.isSafeInteger(checkpointBytes) || checkpointBytes < 1) {
      throw outOfRange('checkpointBytes', 'an integer from 1 on', checkpointBytes);
    }
    const state = resumeFrom === undefined && onCheckpoint === undefined ? null : await stateOf(files);
    if (resumeFrom === undefined) return new Checkpoints(files, state, options);
    const { position, state: before } = resumeFrom;
    if (typeof before !== 'string') throw invalidArgType('resumeFrom.state', 'of type string', before);
    if (!Number.isSafeInteger(position) || position < 0 || position > size) {
      throw outOfRange('resumeFrom.position', `an integer from 0 to ${size}`, position);
    }
    if (before !== state) throw changed();
    return new Checkpoints(files, state, options);
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
    await onCheckpoint({ position, state: this.#state });
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

const changed = (): Qcow2Error =>
  new Qcow2Error(
    'ERR_QCOW2_CONFLICT',
    'What is copied has changed since the checkpoint, so what was copied before may be out of date: begin again without it',
    { feature: 'checkpoint' },
  );
