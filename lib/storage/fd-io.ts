/** Whole positional reads and writes on a descriptor: loops over short ones, repeats interrupted ones. */
import fs from 'node:fs';

/** The callback functions of node:fs are used: they do two to three times the calls per second of a FileHandle. */
type Callback = (error: NodeJS.ErrnoException | null, count: number) => void;

/** More in one call than this some systems refuse (2^31 - 1 bytes) or shorten. */
const maxCallBytes = 2 ** 30;
/** What every system takes in one writev (IOV_MAX). */
const maxCallBuffers = 1024;
/** Before a store that said "not now" is asked again, milliseconds. */
const againDelay = 1;

/** Fills `buffer` from `position` on; resolves to the bytes read, fewer than its length only at the end of the file. */
export function readFully(fd: number, buffer: Uint8Array, position: number): Promise<number> {
  const { length } = buffer;
  return repeat(length, 'read', (done, callback) => {
    fs.read(fd, buffer, done, Math.min(length - done, maxCallBytes), position + done, callback);
  });
}

/** Writes all of `buffer`, which had `length` bytes: fails where it has been given away since. */
export async function writeFully(
  fd: number,
  buffer: Uint8Array,
  position: number,
  length: number = buffer.length,
): Promise<void> {
  await repeat(length, 'write', (done, callback) => {
    fs.write(fd, buffer, done, Math.min(length - done, maxCallBytes), position + done, callback);
  });
}

/** Writes all buffers, one behind the other. */
export async function writevFully(
  fd: number,
  buffers: readonly Uint8Array[],
  position: number,
): Promise<void> {
  const queue = new BufferQueue(buffers);
  await repeat(queue.length, 'write', (done, callback) => {
    fs.writev(fd, queue.from(done), position + done, callback);
  });
}

/** Runs a node:fs call that yields nothing, until it is not interrupted. */
export function complete(call: (callback: (error: NodeJS.ErrnoException | null) => void) => void) {
  return new Promise<void>((resolve, reject) => {
    const attempt = (): void => {
      call((error) => {
        if (error === null) resolve();
        else if (isTransient(error)) setTimeout(attempt, againDelay);
        else reject(error);
      });
    };
    attempt();
  });
}

/**
 * Calls `step` with the bytes done so far until they are `length`; resolves to them. A step that moves no bytes ends a
 * read and fails a write.
 */
function repeat(
  length: number,
  syscall: 'read' | 'write',
  step: (done: number, callback: Callback) => void,
): Promise<number> {
  return new Promise((resolve, reject) => {
    let done = 0;
    const next = (): void => {
      if (done >= length) {
        resolve(done);
        return;
      }
      try {
        step(done, finish);
      } catch (thrown) {
        // After the first step this runs in a callback, where a throw (a buffer detached meanwhile) would end the process.
        const error = thrown as Error;
        reject(error);
      }
    };
    const finish: Callback = (error, count) => {
      if (error !== null) {
        if (isTransient(error)) setTimeout(next, againDelay);
        else reject(error);
      } else if (count > 0) {
        done += count;
        next();
      } else if (syscall === 'read') resolve(done);
      else reject(nothingWritten());
    };
    next();
  });
}

function isTransient(error: NodeJS.ErrnoException): boolean {
  return error.code === 'EINTR' || error.code === 'EAGAIN';
}

/** A system that neither writes nor tells why would keep the loop going for ever. */
function nothingWritten(): NodeJS.ErrnoException {
  const error = new Error('EIO: i/o error, write (the system wrote nothing and gave no reason)');
  return Object.assign(error, { code: 'EIO', syscall: 'write' });
}

/** Buffers to be written one behind the other, seen from any byte on. */
class BufferQueue {
  readonly length: number;
  readonly #buffers: readonly Uint8Array[];
  /** The buffer that byte `#start` of the sequence begins; moves forward only. */
  #index = 0;
  #start = 0;

  constructor(buffers: readonly Uint8Array[]) {
    this.#buffers = buffers;
    this.length = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  }

  /** What one call may take from byte `done` on; `done` never goes back. */
  from(done: number): Uint8Array[] {
    const batch: Uint8Array[] = [];
    let bytes = 0;
    let at = this.#start;
    for (let index = this.#index; index < this.#buffers.length; index += 1) {
      const buffer = this.#buffers[index] ?? new Uint8Array(0);
      if (at + buffer.length <= done) {
        this.#index = index + 1;
        this.#start = at + buffer.length;
      } else {
        const skip = Math.max(done - at, 0);
        const part = buffer.subarray(skip, skip + maxCallBytes - bytes);
        batch.push(part);
        bytes += part.length;
      }
      at += buffer.length;
      if (batch.length === maxCallBuffers || bytes >= maxCallBytes) break;
    }
    return batch;
  }
}
