/** Images in an S3-compatible store: a real server, started here. */
import { S3Client, CreateBucketCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { Readable } from 'node:stream';
import { writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { convert, open, toQcow2Stream } from '../../lib/index.js';
import { S3Storage, uploadToS3 } from '../../lib/storage/s3.js';
import { expectCleanByQemu, qemuContent, qemuImg } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { startS3, type S3Server } from '../support/s3-server.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const path = useTempDir();
let server: S3Server;
let client: S3Client;

beforeEach(async () => {
  server = await startS3(path('s3'));
  client = new S3Client(server.clientOptions);
  await client.send(new CreateBucketCommand({ Bucket: 'backups' }));
});
afterEach(async () => {
  client.destroy();
  await server[Symbol.asyncDispose]();
});

const at = (key: string): { client: S3Client; bucket: string; key: string } => ({
  client,
  bucket: 'backups',
  key,
});

async function stored(key: string): Promise<Buffer> {
  const storage = await S3Storage.open(at(key));
  const buffer = Buffer.alloc(await storage.size());
  expect(await storage.read(buffer, 0)).toBe(buffer.length);
  await storage.close();
  return buffer;
}

describe('an S3-compatible store', () => {
  it('takes a disk as a qcow2 stream in parts, and gives it back', async () => {
    const content = Buffer.concat([pattern(5, 20 * mib), Buffer.alloc(4 * mib)]);
    await writeFile(path('disk.raw'), content);
    const stream = toQcow2Stream(path('disk.raw'), { sourceFormat: 'raw' });
    const length = await stream.sized();
    const progress: number[] = [];
    const uploaded = await uploadToS3(stream, {
      ...at('disk.qcow2'),
      length,
      onProgress: ({ done }) => progress.push(done),
    });
    expect(uploaded.length).toBe(length);
    expect(progress.at(-1)).toBe(length);
    expect(progress.length).toBeGreaterThan(2);
    const image = await open(await S3Storage.open(at('disk.qcow2'), { maxRequestBytes: mib }));
    await convert(image, path('back.qcow2'), { targetFormat: 'qcow2' });
    await image.close();
    await expectCleanByQemu(path('back.qcow2'));
    expect((await qemuContent(path('back.qcow2'))).equals(content)).toBe(true);
  });

  it('takes streams of every length around that of a part', async () => {
    for (const length of [0, 1, 5 * mib - 1, 5 * mib, 5 * mib + 1, 10 * mib]) {
      const bytes = pattern(length, length);
      const chunks = Readable.from([bytes.subarray(0, 3), bytes.subarray(3)]);
      await uploadToS3(chunks, { ...at('x'), partSize: 5 * mib });
      expect((await stored('x')).equals(bytes)).toBe(true);
    }
  });

  it('keeps nothing of an upload that fails, is aborted, or has another length than announced', async () => {
    const broken = async function* (): AsyncGenerator<Buffer> {
      yield pattern(1, 12 * mib);
      await Promise.resolve();
      throw new Error('the disk broke');
    };
    await expect(uploadToS3(broken(), { ...at('x'), partSize: 5 * mib })).rejects.toThrow('the disk broke');
    const whole = (): Readable => Readable.from([pattern(1, 12 * mib)]);
    await expect(uploadToS3(whole(), { ...at('x'), length: 7 })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    const controller = new AbortController();
    const onProgress = (): void => controller.abort(new Error('enough'));
    const aborted = uploadToS3(whole(), {
      ...at('x'),
      partSize: 5 * mib,
      concurrency: 1,
      signal: controller.signal,
      onProgress,
    });
    await expect(aborted).rejects.toThrow('enough');
    await expect(S3Storage.open(at('x'))).rejects.toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
    await expect(uploadToS3(whole(), { ...at('x'), partSize: 5 })).rejects.toThrow(RangeError);
  });

  it('is not believed when the object changes while it is read', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', path('a.qcow2'), '64M']);
    const put = (seed: number): Promise<unknown> =>
      client.send(new PutObjectCommand({ Bucket: 'backups', Key: 'x', Body: pattern(seed, 3 * mib) }));
    await put(1);
    const storage = await S3Storage.open(at('x'), { retryDelay: 1 });
    await storage.read(Buffer.alloc(100), 0);
    await put(2);
    await expect(storage.read(Buffer.alloc(100), mib)).rejects.toMatchObject({ code: 'ERR_QCOW2_CHANGED' });
    await storage.close();
  });

  it('that is gone is said to be gone', async () => {
    await uploadToS3(Readable.from([pattern(1, mib)]), at('x'));
    const storage = await S3Storage.open(at('x'), { retries: 1, retryDelay: 1 });
    await server[Symbol.asyncDispose]();
    await expect(storage.read(Buffer.alloc(100), 0)).rejects.toMatchObject({ code: 'ERR_QCOW2_REMOTE' });
    await storage.close();
  });
});
