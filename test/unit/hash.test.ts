/** Hashes beside those of node:crypto over the plain bytes, and verifying that finds just what was changed. */
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  convert,
  create,
  hash,
  MemoryStorage,
  RawDisk,
  verify,
  type DiskHashes,
  type HashAlgorithm,
} from '../../lib/index.js';
import { mixedDisk } from '../support/mixed-disk.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 2 ** 20;
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const hex = (bytes: Uint8Array | null): string => Buffer.from(bytes ?? []).toString('hex');

async function small(text: string, algorithm: HashAlgorithm): Promise<[string, string]> {
  const bytes = Buffer.from(text);
  const disk = new RawDisk(new MemoryStorage(bytes), bytes.length, true);
  const { blocks, content } = await hash(disk, { algorithm });
  return [hex(blocks), hex(content)];
}

describe('hash', () => {
  it.each([0, 1, 511, 3 * MiB + 777])('is what node:crypto makes of %i bytes', async (size) => {
    const model = mixedDisk(size, size);
    const raw = model.read(0, size);
    await model.saveAs(path('raw'));
    await convert(path('raw'), path('disk'), { sourceFormat: 'raw', targetFormat: 'qcow2' });
    const hashes = await hash(path('disk'), { blockSize: 65536 });
    expect(hex(hashes.content)).toBe(sha256(raw));
    expect(hashes.blocks.length).toBe(Math.ceil(size / 65536) * 32);
    for (let at = 0; at < size; at += 65536) {
      const digest = hashes.blocks.subarray((at / 65536) * 32, (at / 65536 + 1) * 32);
      expect(hex(digest)).toBe(sha256(raw.subarray(at, at + 65536)));
    }
    expect((await hash(path('disk'), { content: false })).content).toBeNull();
  });

  it('xxh64 is that of the published examples', async () => {
    expect(await small('Nobody inspects the spammish repetition', 'xxh64')).toEqual([
      'fbcea83c8a378bf1',
      'fbcea83c8a378bf1',
    ]);
    expect(await small('abc', 'xxh64')).toEqual(['44bc2cf5ad770999', '44bc2cf5ad770999']);
    expect((await small('', 'xxh64'))[1]).toBe('ef46db3751d8e999');
  });

  it('zeros are not read, and have the digest of zeros', async () => {
    const disk = await create(new MemoryStorage(), 64 * MiB);
    await disk.write(pattern(1, 10), 40 * MiB);
    const { blocks } = await hash(disk, { blockSize: MiB, content: false });
    const raw = Buffer.alloc(MiB);
    for (let at = 0; at < 64; at += 1) {
      if (at !== 40) expect(hex(blocks.subarray(at * 32, at * 32 + 32))).toBe(sha256(raw));
    }
    await disk.close();
  });

  it('refuses what makes no sense, and stops when told to', async () => {
    const disk = new RawDisk(new MemoryStorage(pattern(1, MiB)), MiB, true);
    await expect(hash(disk, { algorithm: 'md5' as 'sha256' })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_VALUE',
    });
    await expect(hash(disk, { blockSize: 1000 })).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' });
    const huge = await create(new MemoryStorage(), 2 ** 44);
    await expect(hash(huge, { blockSize: 65536 })).rejects.toMatchObject({ code: 'ERR_QCOW2_LIMIT' });
    await huge.close();
    const reason = new Error('enough');
    await expect(hash(disk, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const stopping = hash(disk, {
      blockSize: 512,
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    await expect(stopping).rejects.toBe(reason);
  });
});

describe('verify', () => {
  it.each(['sha256', 'xxh64'] as const)(
    'finds what has changed, from where it is told to begin: %s',
    async (algorithm) => {
      const disk = await create(new MemoryStorage(), 8 * MiB + 5);
      await disk.write(pattern(1, 5 * MiB), MiB);
      const hashes = await hash(disk, { algorithm, blockSize: 65536, content: false });
      const found = async (start = 0): Promise<number[]> => {
        const starts: number[] = [];
        for await (const { start: at } of verify(disk, hashes, { start })) starts.push(at);
        return starts;
      };
      expect(await found()).toEqual([]);
      await disk.write(Buffer.from('x'), 8 * MiB + 4);
      await disk.writeZeroes(2 * MiB, 65536);
      await disk.write(Buffer.from([pattern(1, 1)[0] === 7 ? 8 : 7]), MiB);
      expect(await found()).toEqual([MiB, 2 * MiB, 8 * MiB]);
      const dones: number[] = [];
      for await (const { start } of verify(disk, hashes, { onProgress: ({ done }) => dones.push(done) })) {
        if (start === 2 * MiB) break;
      }
      const checkpoint = dones.at(-1) ?? 0;
      expect(checkpoint).toBe(2 * MiB);
      expect(await found(checkpoint)).toEqual([2 * MiB, 8 * MiB]);
      await disk.resize(16 * MiB);
      await expect(found()).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
      await disk.close();
    },
  );

  it('says which part of hashes that went through JSON is not what it was', async () => {
    const disk = await create(new MemoryStorage(), MiB);
    const kept = JSON.parse(JSON.stringify(await hash(disk))) as DiskHashes;
    await expect(verify(disk, kept).next()).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
      message: expect.stringContaining('"hashes.blocks" argument must be a Uint8Array') as string,
    });
    await disk.close();
  });
});
