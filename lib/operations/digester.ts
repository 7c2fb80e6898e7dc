/** Hashing on worker threads: blocks side by side, and the whole of a disk in order beside them. */
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';

/** Bytes of a digest. */
export const digestLengths = { sha256: 32, xxh64: 8 } as const;
/** A hash function, as `node:crypto` names it. */
export type HashAlgorithm = keyof typeof digestLengths;

/** Threads for blocks. */
const blockThreads = 2;

/**
 * What a thread runs: text, because a file of its own would have another name in the package than in its sources. A request has
 * an id, and bytes or a number of zeros; with `append` they go on with the whole, with `end` that is finished.
 */
const program = `
const { createHash } = require('node:crypto');
const { parentPort, workerData } = require('node:worker_threads');
const zeros = new Uint8Array(1 << 20);
async function maker() {
  if (workerData.module === null) return () => createHash(workerData.algorithm);
  const xxhash = require(workerData.module);
  const { create64 } = await (xxhash.default ?? xxhash)();
  return () => {
    const hash = create64();
    const digest = () => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(hash.digest());
      return bytes;
    };
    return { update: (bytes) => void hash.update(bytes), digest };
  };
}
function feed(hash, { bytes, zeros: count }) {
  if (bytes) hash.update(bytes);
  for (let left = count ?? 0; left > 0; left -= zeros.length) hash.update(zeros.subarray(0, Math.min(left, zeros.length)));
}
maker().then((make) => {
  const whole = make();
  parentPort.on('message', (request) => {
    const hash = request.append ? whole : make();
    feed(hash, request);
    const digest = request.append && !request.end ? null : new Uint8Array(hash.digest());
    parentPort.postMessage({ id: request.id, digest });
  });
});
`;

interface Request {
  readonly bytes?: Uint8Array;
  readonly zeros?: number;
  readonly append?: boolean;
  readonly end?: boolean;
}

interface Reply {
  readonly id: number;
  readonly digest: Uint8Array | null;
}

interface Pending {
  resolve: (digest: Uint8Array | null) => void;
  reject: (reason: unknown) => void;
}

/** A thread that answers requests in their order. */
class HashThread {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #requests = 0;

  constructor(algorithm: HashAlgorithm) {
    const module = algorithm === 'xxh64' ? createRequire(import.meta.url).resolve('xxhash-wasm') : null;
    this.#worker = new Worker(program, { eval: true, workerData: { algorithm, module } });
    this.#worker.on('message', ({ id, digest }: Reply) => {
      this.#pending.get(id)?.resolve(digest);
      this.#pending.delete(id);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('The thread that hashes has ended')));
  }

  ask(request: Request): Promise<Uint8Array | null> {
    this.#requests += 1;
    const id = this.#requests;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...request });
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(reason: unknown): void {
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }
}

export class Digester {
  readonly #algorithm: HashAlgorithm;
  readonly #blocks: HashThread[];
  readonly #whole: HashThread | null;
  readonly #zeros = new Map<number, Promise<Uint8Array>>();
  #next = 0;
  #appended: Promise<unknown> = Promise.resolve();

  /** @param whole whether {@link append} and {@link content} will be used */
  constructor(algorithm: HashAlgorithm, whole: boolean) {
    this.#algorithm = algorithm;
    this.#blocks = Array.from({ length: blockThreads }, () => new HashThread(algorithm));
    this.#whole = whole ? new HashThread(algorithm) : null;
  }

  /** The digest of a block. */
  block(bytes: Uint8Array): Promise<Uint8Array> {
    return this.#ask({ bytes });
  }

  /** The digest of a block of zeros, which is made once for each length. */
  zeros(length: number): Promise<Uint8Array> {
    let digest = this.#zeros.get(length);
    if (digest === undefined) {
      digest = this.#ask({ zeros: length });
      this.#zeros.set(length, digest);
    }
    return digest;
  }

  /** Goes on with the whole, which may be one step behind: bytes, or a number of zeros. */
  async append(part: Uint8Array | number): Promise<void> {
    if (this.#whole === null) return;
    await this.#appended;
    const request = typeof part === 'number' ? { zeros: part } : { bytes: part };
    this.#appended = this.#whole.ask({ ...request, append: true });
    // Told by the next step.
    this.#appended.catch(() => undefined);
  }

  /** The digest of all that was appended; null when the whole is not hashed. */
  async content(): Promise<Uint8Array | null> {
    await this.#appended;
    return this.#whole === null ? null : this.#whole.ask({ append: true, end: true });
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#blocks, ...(this.#whole === null ? [] : [this.#whole])].map((one) => one.close()),
    );
  }

  async #ask(request: Request): Promise<Uint8Array> {
    this.#next += 1;
    const digest = await this.#blocks[this.#next % blockThreads]?.ask(request);
    if (digest?.length !== digestLengths[this.#algorithm]) throw new Error('A thread gave no digest');
    return digest;
  }
}
