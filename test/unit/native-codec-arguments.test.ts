/** Wrong arguments never reach the codecs: each is refused with Node's own kind of error. */
import { describe, expect, it } from 'vitest';
import { Codec, native } from '../../lib/native.js';

const size = 4096;
const bytes = (length: number): Uint8Array => new Uint8Array(length);
const doubles = (...values: number[]): Float64Array => Float64Array.from(values);

/** Tells of a promise and of an exception alike what code they fail with. */
async function codeOf(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : error;
  }
  return 'nothing';
}

function resizable(length: number): Uint8Array {
  const options = { maxByteLength: 2 * length };
  // The types of ES2023 do not know the option yet.
  const make = ArrayBuffer as unknown as new (length: number, options: object) => ArrayBuffer;
  return new Uint8Array(new make(length, options));
}

function detached(length: number): Uint8Array {
  const buffer = new ArrayBuffer(length);
  const view = new Uint8Array(buffer);
  structuredClone(buffer, { transfer: [buffer] });
  return view;
}

const shared = (length: number): Uint8Array => new Uint8Array(new SharedArrayBuffer(length));

interface DecodeArguments {
  codec: number;
  input: unknown;
  output: unknown;
}

const decodeCases: [name: string, code: string, change: Partial<DecodeArguments>][] = [
  ['an unknown codec', 'ERR_OUT_OF_RANGE', { codec: 2 }],
  ['a codec by name', 'ERR_INVALID_ARG_TYPE', { codec: 'zstd' as unknown as number }],
  ['a string as input', 'ERR_INVALID_ARG_TYPE', { input: 'stream' }],
  ['a DataView as output', 'ERR_INVALID_ARG_TYPE', { output: new DataView(new ArrayBuffer(size)) }],
  ['an output that is no cluster', 'ERR_OUT_OF_RANGE', { output: bytes(size - 1) }],
  ['an empty output', 'ERR_OUT_OF_RANGE', { output: bytes(0) }],
  ['an output larger than any cluster', 'ERR_OUT_OF_RANGE', { output: bytes(2 ** 22) }],
  ['a detached input', 'ERR_INVALID_ARG_VALUE', { input: detached(512) }],
  ['a detached output', 'ERR_INVALID_ARG_VALUE', { output: detached(size) }],
  ['shared memory', 'ERR_INVALID_ARG_TYPE', { input: shared(512) }],
];

describe('decompressCluster and decompressClusterAsync refuse', () => {
  it.each(decodeCases)('%s', async (_, code, change) => {
    const { codec, input, output } = {
      codec: Codec.deflate,
      input: bytes(512),
      output: bytes(size),
      ...change,
    };
    const args = [codec, input, output] as unknown as Parameters<typeof native.decompressCluster>;
    expect(await codeOf(() => native.decompressCluster(...args))).toBe(code);
    expect(await codeOf(() => native.decompressClusterAsync(...args))).toBe(code);
  });

  it('an input inside the output', async () => {
    const both = bytes(2 * size);
    const output = both.subarray(0, size);
    for (const input of [both.subarray(size - 1, size + 100), output, both]) {
      expect(await codeOf(() => native.decompressCluster(Codec.zstd, input, output))).toBe(
        'ERR_INVALID_ARG_VALUE',
      );
    }
    expect(await codeOf(() => native.decompressCluster(Codec.zstd, both.subarray(size), output))).toBe(
      'nothing',
    );
  });

  it('memory that may shrink while a worker uses it', async () => {
    const call = (input: Uint8Array, output: Uint8Array) => () =>
      native.decompressClusterAsync(Codec.deflate, input, output);
    expect(await codeOf(call(resizable(512), bytes(size)))).toBe('ERR_INVALID_ARG_VALUE');
    expect(await codeOf(call(bytes(512), resizable(size)))).toBe('ERR_INVALID_ARG_VALUE');
  });
});

interface BatchArguments {
  jobs: Float64Array;
  output: Uint8Array;
  clusterSize: number;
  results: Uint8Array;
}

const batchCases: [name: string, code: string, change: Partial<BatchArguments>][] = [
  ['a job cut short', 'ERR_INVALID_ARG_VALUE', { jobs: doubles(0, 512) }],
  ['input past the end', 'ERR_OUT_OF_RANGE', { jobs: doubles(1, 1024, 0) }],
  ['an input offset far past the end', 'ERR_OUT_OF_RANGE', { jobs: doubles(2 ** 60, 1, 0) }],
  ['an infinite length', 'ERR_OUT_OF_RANGE', { jobs: doubles(0, Infinity, 0) }],
  ['a negative offset', 'ERR_OUT_OF_RANGE', { jobs: doubles(-1, 10, 0) }],
  ['a fraction', 'ERR_OUT_OF_RANGE', { jobs: doubles(0, 10.5, 0) }],
  ['NaN', 'ERR_OUT_OF_RANGE', { jobs: doubles(Number.NaN, 10, 0) }],
  ['output past the end', 'ERR_OUT_OF_RANGE', { jobs: doubles(0, 10, 1) }],
  ['a second job past the end', 'ERR_OUT_OF_RANGE', { jobs: doubles(0, 10, 0, 0, 10, size) }],
  ['a result too few', 'ERR_INVALID_ARG_VALUE', { results: bytes(0) }],
  ['a cluster size that is no power of two', 'ERR_OUT_OF_RANGE', { clusterSize: 768 }],
  ['a cluster size below 512', 'ERR_OUT_OF_RANGE', { clusterSize: 256 }],
  ['results that may shrink', 'ERR_INVALID_ARG_VALUE', { results: resizable(1) }],
];

describe('decompressClusters refuses', () => {
  it.each(batchCases)('%s', async (_, code, change) => {
    const { jobs, output, clusterSize, results } = {
      jobs: doubles(0, 512, 0),
      output: bytes(size),
      clusterSize: size,
      results: bytes(1),
      ...change,
    };
    const input = bytes(1024);
    const call = () => native.decompressClusters(Codec.zstd, input, jobs, output, clusterSize, results);
    expect(await codeOf(call)).toBe(code);
  });
});

interface EncodeArguments {
  level: number;
  input: Uint8Array;
  clusterSize: number;
  limit: number;
  output: Uint8Array;
  lengths: Float64Array;
}

const encodeCases: [name: string, code: string, change: Partial<EncodeArguments>][] = [
  ['level 0', 'ERR_OUT_OF_RANGE', { level: 0 }],
  ['a level too high', 'ERR_OUT_OF_RANGE', { level: 13 }],
  ['a limit of 0', 'ERR_OUT_OF_RANGE', { limit: 0 }],
  ['a limit above the cluster', 'ERR_OUT_OF_RANGE', { limit: size + 1 }],
  ['part of a cluster', 'ERR_INVALID_ARG_VALUE', { input: bytes(2 * size - 1) }],
  ['too little room', 'ERR_INVALID_ARG_VALUE', { output: bytes(2 * size - 3) }],
  ['a length too few', 'ERR_INVALID_ARG_VALUE', { lengths: doubles(0) }],
  ['input that may shrink', 'ERR_INVALID_ARG_VALUE', { input: resizable(2 * size) }],
  ['lengths of another type', 'ERR_INVALID_ARG_TYPE', { lengths: bytes(2) as unknown as Float64Array }],
];

describe('compressClusters refuses', () => {
  it.each(encodeCases)('%s', async (_, code, change) => {
    const { level, input, clusterSize, limit, output, lengths } = {
      level: 6,
      input: bytes(2 * size),
      clusterSize: size,
      limit: size - 1,
      output: bytes(2 * size),
      lengths: doubles(0, 0),
      ...change,
    };
    const call = () =>
      native.compressClusters(Codec.deflate, level, input, clusterSize, limit, output, lengths);
    expect(await codeOf(call)).toBe(code);
  });
});
