/** uploadToS3(): a stream of any length as one object, in parts, with memory for a few parts. */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  UploadPartCommand,
  type CompletedPart,
  type CreateMultipartUploadCommandInput,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Job } from '../disk.js';
import { outOfRange, Qcow2Error } from '../errors.js';

export interface S3UploadOptions extends Job {
  /** The client; it stays open. */
  client: S3Client;
  /** Name of the bucket. */
  bucket: string;
  /** Key of the object. */
  key: string;
  /** Bytes that the stream has, where that is known: another number is an error, and the parts are made to fit. */
  length?: number | null;
  /**
   * Bytes of a part, 5 MiB to 5 GiB; by default 8 MiB, more where `length` needs it, or 32 MiB without a length (which is
   * enough for 312 GiB). A part is held in memory, and `concurrency` of them (4 by default) are under way at once.
   */
  partSize?: number;
  /** Further parameters of the object, such as `ContentType`, `Metadata` or `StorageClass`. */
  object?: Omit<CreateMultipartUploadCommandInput, 'Bucket' | 'Key'>;
}

/** What has been stored. */
export interface S3Upload {
  /** Bytes. */
  length: number;
  /** The ETag that the store gave it, or null when it gave none. */
  etag: string | null;
}

const mib = 1024 * 1024;
const maxParts = 10_000;

/**
 * Stores a stream as an object, which is there when it resolves and not before: what fails or is aborted leaves nothing.
 * @throws Qcow2Error `ERR_QCOW2_CONFLICT` when the stream has not `length` bytes, `ERR_QCOW2_LIMIT` when it is too long for
 * its parts; what the stream or the client throws; the signal's reason
 */
export async function uploadToS3(
  source: AsyncIterable<Uint8Array>,
  options: S3UploadOptions,
): Promise<S3Upload> {
  const partSize = partSizeFor(options);
  const parts = partsOf(source, partSize);
  const first = await parts.next();
  const second = first.done === true ? first : await parts.next();
  if (first.done === true || second.done === true) {
    return putWhole(first.done === true ? Buffer.alloc(0) : first.value, options);
  }
  return new MultipartUpload(options).run(all([first.value, second.value], parts));
}

function partSizeFor({ length = null, partSize }: S3UploadOptions): number {
  if (partSize === undefined) {
    return length === null ? 32 * mib : Math.max(8 * mib, Math.ceil(length / maxParts / mib) * mib);
  }
  if (Number.isSafeInteger(partSize) && partSize >= 5 * mib && partSize <= 5 * 1024 * mib) return partSize;
  throw outOfRange('partSize', 'an integer from 5 MiB to 5 GiB', partSize);
}

/** The stream in pieces of equal size; the last may be shorter. */
async function* partsOf(source: AsyncIterable<Uint8Array>, partSize: number): AsyncGenerator<Buffer> {
  let part = Buffer.allocUnsafeSlow(partSize);
  let filled = 0;
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length;) {
      const taken = Math.min(chunk.length - at, partSize - filled);
      part.set(chunk.subarray(at, at + taken), filled);
      at += taken;
      filled += taken;
      if (filled < partSize) continue;
      yield part;
      part = Buffer.allocUnsafeSlow(partSize);
      filled = 0;
    }
  }
  if (filled > 0) yield part.subarray(0, filled);
}

async function putWhole(body: Buffer, options: S3UploadOptions): Promise<S3Upload> {
  const { client, bucket, key, object, signal, onProgress } = options;
  refuseOtherLength(body.length, options);
  const command = new PutObjectCommand({ ...object, Bucket: bucket, Key: key, Body: body });
  const { ETag } = await client.send(command, abortedBy(signal));
  onProgress?.({ done: body.length, total: body.length });
  return { length: body.length, etag: ETag ?? null };
}

class MultipartUpload {
  readonly #options: S3UploadOptions;
  readonly #concurrency: number;
  readonly #completed: CompletedPart[] = [];
  /** Bytes taken from the stream, and bytes that the store has. */
  #taken = 0;
  #stored = 0;
  readonly #failures: unknown[] = [];

  constructor(options: S3UploadOptions) {
    this.#options = options;
    this.#concurrency = options.concurrency ?? 4;
  }

  async run(parts: AsyncIterable<Buffer>): Promise<S3Upload> {
    const { client, bucket, key, object, signal } = this.#options;
    const target = { Bucket: bucket, Key: key };
    const started = await client.send(
      new CreateMultipartUploadCommand({ ...object, ...target }),
      abortedBy(signal),
    );
    const upload = { ...target, UploadId: started.UploadId };
    const underWay = new Set<Promise<void>>();
    try {
      for await (const part of parts) {
        this.#refuseToGoOn();
        const sending = this.#send(part, upload).catch((error: unknown) => void this.#failures.push(error));
        underWay.add(sending);
        void sending.then(() => underWay.delete(sending));
        // The next part is read while these are on their way, and no more than these are in memory.
        if (underWay.size >= this.#concurrency) await Promise.race(underWay);
      }
      await Promise.all(underWay);
      this.#refuseToGoOn();
      refuseOtherLength(this.#taken, this.#options);
      const complete = { ...upload, MultipartUpload: { Parts: this.#completed } };
      const { ETag } = await client.send(new CompleteMultipartUploadCommand(complete), abortedBy(signal));
      return { length: this.#taken, etag: ETag ?? null };
    } catch (error) {
      await Promise.all(underWay);
      // The store would go on charging for the parts. What went wrong first is what counts.
      await client.send(new AbortMultipartUploadCommand(upload)).catch(() => undefined);
      throw error;
    }
  }

  async #send(
    body: Buffer,
    upload: { Bucket: string; Key: string; UploadId: string | undefined },
  ): Promise<void> {
    const { client, signal, onProgress, length } = this.#options;
    const part: CompletedPart = { PartNumber: this.#completed.length + 1 };
    if (this.#completed.push(part) > maxParts) {
      throw new Qcow2Error(
        'ERR_QCOW2_LIMIT',
        `An object has ${maxParts} parts at most; use a larger partSize`,
        {
          feature: 'partSize',
        },
      );
    }
    this.#taken += body.length;
    const command = new UploadPartCommand({ ...upload, PartNumber: part.PartNumber, Body: body });
    part.ETag = (await client.send(command, abortedBy(signal))).ETag;
    this.#stored += body.length;
    onProgress?.({ done: this.#stored, total: length ?? this.#stored });
  }

  #refuseToGoOn(): void {
    this.#options.signal?.throwIfAborted();
    if (this.#failures.length > 0) throw this.#failures[0] as Error;
  }
}

function refuseOtherLength(length: number, options: S3UploadOptions): void {
  if (options.length === undefined || options.length === null || options.length === length) return;
  throw new Qcow2Error('ERR_QCOW2_CONFLICT', `The stream has ${length} bytes, not ${options.length}`, {
    feature: 'length',
  });
}

const abortedBy = (signal: AbortSignal | undefined): { abortSignal?: AbortSignal } =>
  signal === undefined ? {} : { abortSignal: signal };

/** What was taken off the front, and the rest. */
async function* all(first: readonly Buffer[], rest: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield* first;
  yield* rest;
}
