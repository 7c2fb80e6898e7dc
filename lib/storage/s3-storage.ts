/** An object in an S3-compatible store, read with range requests; an object that changes is noticed. */
import { GetObjectCommand, HeadObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import type { Readable } from 'node:stream';
import { Qcow2Error } from '../errors.js';
import { RemoteStorage, type RemoteOptions } from './remote-storage.js';
import { PassingFailure, retrying } from './retry.js';

/** Where an object is. */
export interface S3Object {
  /** The client; it stays open. */
  client: S3Client;
  /** Name of the bucket. */
  bucket: string;
  /** Key of the object. */
  key: string;
  /** A version of it, in a bucket that keeps them; the newest by default. */
  versionId?: string;
}

export type S3StorageOptions = RemoteOptions;

/** What an object was when it was first looked at. */
interface Seen {
  readonly size: number;
  readonly etag: string;
}

export class S3Storage extends RemoteStorage {
  private constructor(object: S3Object, seen: Seen, options: S3StorageOptions) {
    const fetch = (buffer: Buffer, position: number, signal: AbortSignal): Promise<void> =>
      getRange(object, seen, buffer, position, { timeout: options.timeout ?? 30_000, signal });
    super(nameOf(object), `${nameOf(object)}?${object.versionId ?? ''}`, seen.size, fetch, options);
  }

  /**
   * Looks at an object. The client stays open when the storage is closed.
   * @throws Qcow2Error `ERR_QCOW2_NOT_FOUND`, `ERR_QCOW2_REMOTE`; the signal's reason
   */
  static async open(object: S3Object, options: S3StorageOptions = {}): Promise<S3Storage> {
    const signal = options.signal ?? new AbortController().signal;
    const { client } = object;
    const command = new HeadObjectCommand(address(object));
    try {
      const head = await retrying(options, signal, () =>
        client.send(command, { abortSignal: signal }).catch((error: unknown) => {
          throw explained(error, object);
        }),
      );
      if (head.ContentLength === undefined || head.ETag === undefined) {
        throw new Qcow2Error(
          'ERR_QCOW2_REMOTE',
          `${nameOf(object)}: the store tells no length or no ETag of it`,
        );
      }
      return new S3Storage(object, { size: head.ContentLength, etag: head.ETag }, options);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof PassingFailure)) throw error;
      throw new Qcow2Error('ERR_QCOW2_REMOTE', `${nameOf(object)} could not be read: ${error.message}`, {
        cause: error.cause,
      });
    }
  }
}

/** Fills a buffer from the object as it was at first. */
async function getRange(
  object: S3Object,
  { etag, size }: Seen,
  buffer: Buffer,
  position: number,
  { timeout, signal }: { timeout: number; signal: AbortSignal },
): Promise<void> {
  const ending = new AbortController();
  const stop = (): void => ending.abort();
  const timer = setTimeout(stop, timeout);
  signal.addEventListener('abort', stop, { once: true });
  const end = position + buffer.length;
  const range = `bytes=${position}-${end - 1}`;
  let body: Readable | undefined;
  try {
    const command = new GetObjectCommand({ ...address(object), Range: range, IfMatch: etag });
    const answer = await object.client.send(command, { abortSignal: ending.signal });
    body = answer.Body as Readable | undefined;
    if (answer.ETag !== etag) throw changed(object, position);
    if (answer.ContentRange !== `bytes ${position}-${end - 1}/${size}` || body === undefined) {
      throw new Qcow2Error(
        'ERR_QCOW2_REMOTE',
        `${nameOf(object)}: ${range} was asked for, and something else came`,
        {
          offset: position,
        },
      );
    }
    await takeBody(body, buffer);
  } catch (error) {
    signal.throwIfAborted();
    if (ending.signal.aborted) throw new PassingFailure(`no answer within ${timeout} ms`, error);
    throw explained(error, object, position);
  } finally {
    body?.destroy();
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}

async function takeBody(body: Readable, buffer: Buffer): Promise<void> {
  let at = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    if (at + chunk.length > buffer.length) throw new PassingFailure('the answer is longer than announced');
    chunk.copy(buffer, at);
    at += chunk.length;
  }
  if (at < buffer.length)
    throw new PassingFailure(`the answer broke off after ${at} of ${buffer.length} bytes`);
}

const address = ({ bucket, key, versionId }: S3Object) => ({
  Bucket: bucket,
  Key: key,
  ...(versionId === undefined ? {} : { VersionId: versionId }),
});

const nameOf = ({ bucket, key }: Pick<S3Object, 'bucket' | 'key'>): string => `s3://${bucket}/${key}`;

/** Tells failures that may pass from those that will not. */
function explained(error: unknown, object: S3Object, position?: number): unknown {
  if (error instanceof Qcow2Error || error instanceof PassingFailure) return error;
  const { $metadata, name, message } = error as { $metadata?: { httpStatusCode?: number } } & Error;
  const status = $metadata?.httpStatusCode ?? 0;
  const details = { cause: error, ...(position === undefined ? {} : { offset: position }) };
  if (status === 404) return new Qcow2Error('ERR_QCOW2_NOT_FOUND', `${nameOf(object)} is not there`, details);
  if (status === 412 || status === 416) return changed(object, position ?? 0);
  if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
    return new Qcow2Error(
      'ERR_QCOW2_REMOTE',
      `${nameOf(object)} could not be read: ${name}: ${message}`,
      details,
    );
  }
  return new PassingFailure(message, error);
}

const changed = (object: S3Object, offset: number): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CHANGED', `${nameOf(object)} has changed since it was opened; open it again`, {
    offset,
  });
