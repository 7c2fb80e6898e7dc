/** Compressed clusters: node:zlib and qemu-img agree with the native codecs, and no stream does harm. */
import { readFile, writeFile } from 'node:fs/promises';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Codec, decodeJobStride, DecodeResult, native } from '../../lib/native.js';
import { compressedClusters, type StoredCluster, writeCompressedImage } from '../support/compressed-image.js';
import { qemuContent, qemuImg } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const kib = 1024;
const pathOf = useTempDir();
const codecs = [
  { codec: Codec.deflate, compressionType: 'zlib' },
  { codec: Codec.zstd, compressionType: 'zstd' },
] as const;

/** Clusters between all alike and all random: runs, repeated phrases, noise. */
function clusters(seed: number, count: number, clusterSize: number): Buffer {
  const random = new Random(seed);
  const out = Buffer.alloc(count * clusterSize);
  for (let index = 0; index < count; index += 1) {
    const noise = Math.floor((clusterSize * index) / count);
    const cluster = out.subarray(index * clusterSize, (index + 1) * clusterSize);
    cluster.fill(pattern(seed + index, random.between(1, 200)));
    pattern(seed - index, noise).copy(cluster, random.below(clusterSize - noise));
  }
  return out;
}

async function compress(
  codec: Codec,
  input: Uint8Array,
  clusterSize: number,
  { level = 1, limit = clusterSize - 1 } = {},
): Promise<{ packed: Uint8Array; lengths: number[]; streams: Uint8Array[] }> {
  const count = input.length / clusterSize;
  const output = new Uint8Array(count * limit);
  const lengths = new Float64Array(count);
  const written = await native.compressClusters(codec, level, input, clusterSize, limit, output, lengths);
  let at = 0;
  const streams = Array.from(lengths, (length) => output.subarray(at, (at += length)));
  expect(at).toBe(written);
  return { packed: output.subarray(0, written), lengths: [...lengths], streams };
}

async function compressOne(codec: Codec, cluster: Uint8Array): Promise<Uint8Array> {
  const { packed } = await compress(codec, cluster, cluster.length);
  expect(packed.length).toBeGreaterThan(0);
  return packed;
}

/** Decodes into the middle of a larger buffer, whose other bytes must not change. */
function decode(
  codec: Codec,
  input: Uint8Array,
  clusterSize: number,
): { result: DecodeResult; output: Buffer } {
  const room = Buffer.alloc(clusterSize + 512, 0xee);
  const output = room.subarray(256, 256 + clusterSize);
  const result = native.decompressCluster(codec, input, output);
  expect(room.subarray(0, 256).every((byte) => byte === 0xee)).toBe(true);
  expect(room.subarray(256 + clusterSize).every((byte) => byte === 0xee)).toBe(true);
  return { result, output };
}

async function decodeBatch(
  codec: Codec,
  stored: readonly StoredCluster[],
  clusterSize: number,
): Promise<{ failures: number; results: Uint8Array; output: Buffer }> {
  const input = Buffer.concat(stored.map((cluster) => cluster.input));
  let at = 0;
  const jobs = stored.flatMap((cluster, index) => {
    const offset = at;
    at += cluster.input.length;
    return [offset, cluster.input.length, index * clusterSize];
  });
  expect(jobs).toHaveLength(stored.length * decodeJobStride);
  const output = Buffer.alloc(stored.length * clusterSize);
  const results = new Uint8Array(stored.length).fill(99);
  const failures = await native.decompressClusters(
    codec,
    input,
    Float64Array.from(jobs),
    output,
    clusterSize,
    results,
  );
  return { failures, results, output };
}

/** One zstd frame of one repeated byte, by the words of RFC 8878: it claims a window and repeats the byte in blocks. */
function zstdFrame(windowLog: number, byte: number, blockLengths: readonly number[]): Buffer {
  const blocks = blockLengths.map((length, index) => {
    const last = index === blockLengths.length - 1 ? 1 : 0;
    const block = Buffer.alloc(4);
    block.writeUIntLE(last | (1 << 1) | (length << 3), 0, 3);
    block[3] = byte;
    return block;
  });
  return Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, (windowLog - 10) << 3]), ...blocks]);
}

/** A frame that decoders skip. */
function skippableFrame(length: number): Buffer {
  const frame = Buffer.alloc(8 + length, 0x77);
  frame.writeUInt32LE(0x184d2a5f, 0);
  frame.writeUInt32LE(length, 4);
  return frame;
}

describe.each(codecs)('$compressionType and qemu-img', ({ codec, compressionType }) => {
  it.each([512, 4 * kib, 64 * kib, 2048 * kib])(
    'reads what it compressed into %i byte clusters',
    async (clusterSize) => {
      const raw = clusters(clusterSize, 12, clusterSize);
      await writeFile(pathOf('raw'), raw);
      const options = `compression_type=${compressionType},cluster_size=${clusterSize}`;
      const files = [pathOf('raw'), pathOf('image')];
      await qemuImg(['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, ...files]);
      const stored = compressedClusters(await readFile(pathOf('image')));
      expect(stored.length).toBeGreaterThan(5);

      const batch = await decodeBatch(codec, stored, clusterSize);
      expect(batch.failures).toBe(0);
      for (const [index, { guest, input }] of stored.entries()) {
        const expected = raw.subarray(guest, guest + clusterSize);
        const now = decode(codec, input, clusterSize);
        const later = Buffer.alloc(clusterSize);
        expect(now.result).toBe(DecodeResult.ok);
        expect(await native.decompressClusterAsync(codec, input, later)).toBe(DecodeResult.ok);
        expect(now.output.equals(expected)).toBe(true);
        expect(later.equals(expected)).toBe(true);
        expect(batch.output.subarray(index * clusterSize, (index + 1) * clusterSize).equals(expected)).toBe(
          true,
        );
      }
    },
  );

  it.each([512, 64 * kib, 2048 * kib])('lets it read clusters of %i bytes', async (clusterSize) => {
    const input = clusters(clusterSize + 7, 12, clusterSize);
    const highest = codec === Codec.deflate ? 12 : 22;
    for (const level of [1, 5, highest]) {
      const { packed, lengths } = await compress(codec, input, clusterSize, { level });
      await writeCompressedImage(pathOf('image'), compressionType, clusterSize, packed, lengths);
      const content = await qemuContent(pathOf('image'));
      expect(lengths.filter((length) => length > 0).length).toBeGreaterThan(5);
      for (const [index, length] of lengths.entries()) {
        const range = [index * clusterSize, (index + 1) * clusterSize] as const;
        // What does not fit was left out of the image.
        const expected = length > 0 ? input.subarray(...range) : Buffer.alloc(clusterSize);
        expect(content.subarray(...range).equals(expected)).toBe(true);
      }
    }
  });
});

/** What node:zlib makes of a raw deflate stream, or why it refuses it. */
function inflateOrReason(stream: Uint8Array): Buffer | string {
  try {
    return inflateRawSync(stream);
  } catch (error) {
    if (error instanceof Error) return error.message;
    throw error;
  }
}

describe('deflate and node:zlib', () => {
  const cluster = fc
    .array(
      fc.oneof(
        fc.uint8Array({ maxLength: 300 }),
        fc.nat(255).map((byte) => new Uint8Array(400).fill(byte)),
      ),
    )
    .map((parts) => {
      const out = Buffer.alloc(4 * kib);
      Buffer.concat(parts).copy(out);
      return out;
    });

  it('read each other', async () => {
    await fc.assert(
      fc.asyncProperty(cluster, fc.integer({ min: 1, max: 12 }), async (content, level) => {
        const mine = await compress(Codec.deflate, content, content.length, { level });
        if (mine.packed.length > 0) expect(inflateRawSync(mine.packed).equals(content)).toBe(true);
        const theirs = decode(Codec.deflate, deflateRawSync(content, { level: level % 10 }), content.length);
        expect(theirs.result).toBe(DecodeResult.ok);
        expect(theirs.output.equals(content)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  // One stream with codes of its own, one with the fixed codes of the specification.
  it.each([2, 0])('agree on which damaged streams are streams (%i)', (index) => {
    const content = clusters(3, 4, 4 * kib).subarray(index * 4 * kib, (index + 1) * 4 * kib);
    const stream = deflateRawSync(content);
    fc.assert(
      fc.property(fc.nat(stream.length * 8 - 1), (bit) => {
        const damaged = Buffer.from(stream);
        damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        const { result, output } = decode(Codec.deflate, damaged, content.length);
        const expected = inflateOrReason(damaged);
        // libdeflate reads the two codes that the specification reserves as if they were the longest match.
        if (expected === 'invalid literal/length code') return;
        const whole = typeof expected !== 'string' && expected.length === content.length;
        expect(result === DecodeResult.ok).toBe(whole);
        if (whole) expect(expected.equals(output)).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });
});

describe.each(codecs)('streams of $compressionType', ({ codec }) => {
  const clusterSize = 64 * kib;
  const content = clusters(11, 3, clusterSize).subarray(clusterSize, 2 * clusterSize);

  it('may be followed by anything', async () => {
    const stream = await compressOne(codec, content);
    for (const garbage of [Buffer.alloc(511), pattern(12, 700), Buffer.from(stream)]) {
      const { result, output } = decode(codec, Buffer.concat([stream, garbage]), clusterSize);
      expect(result).toBe(DecodeResult.ok);
      expect(output.equals(content)).toBe(true);
    }
  });

  it('that make less than a cluster are too short', async () => {
    const stream = await compressOne(codec, content);
    for (const garbage of [0, 511]) {
      const input = Buffer.concat([stream, Buffer.alloc(garbage)]);
      expect(decode(codec, input, 2 * clusterSize).result).toBe(DecodeResult.tooShort);
    }
  });

  it('that make more than a cluster are too long', async () => {
    const stream = await compressOne(codec, content);
    expect(decode(codec, stream, clusterSize / 2).result).toBe(DecodeResult.tooLong);
    expect(decode(codec, stream, 512).result).toBe(DecodeResult.tooLong);
  });

  it('are refused when any part of the end is missing', async () => {
    const stream = await compressOne(codec, content);
    for (let length = 0; length < stream.length; length += 1 + (length % 97)) {
      expect(decode(codec, stream.subarray(0, length), clusterSize).result).not.toBe(DecodeResult.ok);
    }
    expect(decode(codec, stream.subarray(0, -1), clusterSize).result).not.toBe(DecodeResult.ok);
  });

  it('are refused when they are noise', () => {
    for (let seed = 0; seed < 300; seed += 1) {
      const { result } = decode(codec, pattern(seed, 512 + seed), clusterSize);
      expect([DecodeResult.damaged, DecodeResult.tooShort, DecodeResult.tooLong]).toContain(result);
    }
  });

  it('that are damaged leave the others of their batch readable', async () => {
    const stream = Buffer.from(await compressOne(codec, content));
    const good = { guest: 0, input: stream };
    const bad = { guest: 0, input: pattern(13, stream.length) };
    const { failures, results, output } = await decodeBatch(codec, [good, bad, good], clusterSize);
    expect(failures).toBe(1);
    expect([results[0], results[2]]).toEqual([DecodeResult.ok, DecodeResult.ok]);
    expect(results[1]).not.toBe(DecodeResult.ok);
    expect(output.subarray(0, clusterSize).equals(content)).toBe(true);
    expect(output.subarray(2 * clusterSize).equals(content)).toBe(true);
  });
});

describe('deflate bombs', () => {
  it('end at the end of the cluster', () => {
    const bomb = deflateRawSync(Buffer.alloc(64 * kib * kib));
    expect(bomb.length).toBeLessThan(128 * kib);
    expect(decode(Codec.deflate, bomb, 64 * kib).result).toBe(DecodeResult.tooLong);
  });
});

describe('zstd frames', () => {
  const clusterSize = 64 * kib;
  const whole = zstdFrame(17, 0x41, [clusterSize]);
  const half = zstdFrame(17, 0x42, [clusterSize / 2]);

  it('are read one after the other until the cluster is full', () => {
    const halves = Buffer.concat([
      half,
      skippableFrame(20),
      zstdFrame(17, 0x43, [clusterSize / 2]),
      pattern(1, 99),
    ]);
    const { result, output } = decode(Codec.zstd, halves, clusterSize);
    expect(result).toBe(DecodeResult.ok);
    expect(output.equals(Buffer.alloc(clusterSize, 0x42).fill(0x43, clusterSize / 2))).toBe(true);
    expect(decode(Codec.zstd, half, clusterSize).result).toBe(DecodeResult.tooShort);
    expect(decode(Codec.zstd, Buffer.concat([half, whole]), clusterSize).result).toBe(DecodeResult.tooLong);
  });

  it('take no memory for the window they claim', async () => {
    const claims = zstdFrame(30, 0x44, [clusterSize]);
    const before = process.memoryUsage.rss();
    const stored = Array.from({ length: 64 }, () => ({ guest: 0, input: claims }));
    const { failures, output } = await decodeBatch(Codec.zstd, stored, clusterSize);
    expect(failures).toBe(0);
    expect(output.every((byte) => byte === 0x44)).toBe(true);
    expect(process.memoryUsage.rss() - before).toBeLessThan(2 ** 27);
  });

  it('are bombs that end at the end of the cluster', () => {
    const bomb = zstdFrame(17, 0, new Array<number>(10_000).fill(128 * kib));
    expect(decode(Codec.zstd, bomb, clusterSize).result).toBe(DecodeResult.tooLong);
  });

  it('come to an end when they are empty', () => {
    const empty = Buffer.concat(Array.from({ length: 5000 }, () => skippableFrame(0)));
    expect(decode(Codec.zstd, empty, clusterSize).result).toBe(DecodeResult.tooShort);
    expect(decode(Codec.zstd, Buffer.concat([empty, whole]), clusterSize).result).toBe(DecodeResult.ok);
  });

  it('of the time before version 1 are none', () => {
    const old = Buffer.from(whole);
    for (const magic of [0x25, 0x26, 0x27]) {
      old[0] = magic;
      expect(decode(Codec.zstd, old, clusterSize).result).toBe(DecodeResult.damaged);
    }
  });
});

describe.each(codecs)('compressClusters with $compressionType', ({ codec }) => {
  const clusterSize = 4 * kib;

  it('leaves out what does not fit the limit and packs the rest', async () => {
    const input = Buffer.concat([
      pattern(21, clusterSize),
      clusters(22, 1, clusterSize),
      pattern(23, clusterSize),
    ]);
    const { packed, lengths } = await compress(codec, input, clusterSize);
    expect(lengths).toEqual([0, packed.length, 0]);
    const { result, output } = decode(codec, packed, clusterSize);
    expect(result).toBe(DecodeResult.ok);
    expect(output.equals(input.subarray(clusterSize, 2 * clusterSize))).toBe(true);
  });

  it('never passes the limit, and writes nothing behind the bytes it reports', async () => {
    const input = clusters(24, 8, clusterSize);
    for (const limit of [1, 20, 500, 2000, clusterSize]) {
      const output = Buffer.alloc(8 * limit + 64, 0xee);
      const lengths = new Float64Array(8);
      const room = output.subarray(0, 8 * limit);
      const written = await native.compressClusters(codec, 1, input, clusterSize, limit, room, lengths);
      expect(Math.max(...lengths)).toBeLessThanOrEqual(limit);
      expect(lengths.reduce((sum, length) => sum + length)).toBe(written);
      expect(output.subarray(8 * limit).every((byte) => byte === 0xee)).toBe(true);
    }
  });

  it('takes no clusters for no work', async () => {
    expect(await compress(codec, new Uint8Array(), clusterSize)).toMatchObject({ lengths: [] });
  });

  // A compressed stream is made twice, the first time for the places in it.
  it('gives the same from many at once as from one, and what decodes to the input', async () => {
    const input = clusters(25, 16, clusterSize);
    const alone = await compress(codec, input, clusterSize);
    const together = await Promise.all(Array.from({ length: 16 }, () => compress(codec, input, clusterSize)));
    for (const { packed } of together) expect(Buffer.from(packed).equals(alone.packed)).toBe(true);
    const kept = [...alone.streams.entries()].filter(([, stream]) => stream.length > 0);
    expect(kept.length).toBeGreaterThan(8);
    for (const [index, stream] of kept) {
      const expected = input.subarray(index * clusterSize, (index + 1) * clusterSize);
      const { result, output } = decode(codec, stream, clusterSize);
      expect(result).toBe(DecodeResult.ok);
      expect(output.equals(expected)).toBe(true);
      if (codec === Codec.deflate) expect(inflateRawSync(stream).equals(expected)).toBe(true);
    }
  });
});
