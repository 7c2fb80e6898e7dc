/** Compressing clusters with the addon's codecs, or with node:zlib, loaded then, where it was built without them. */
import { promisify } from 'node:util';
import type { ZlibOptions } from 'node:zlib';
import { Qcow2Error } from '../errors.js';
import type { CompressionType } from '../format/header-fields.js';
import { Codec, DecodeResult, native } from '../native.js';

/** What each compression type is to the addon, and the level used when none is asked for. */
export const codecs = {
  zlib: { codec: Codec.deflate, name: 'deflate', defaultLevel: 1 },
  zstd: { codec: Codec.zstd, name: 'zstd', defaultLevel: 3 },
} as const satisfies Record<CompressionType, object>;

/**
 * Decodes one compressed cluster, off the main thread. `input` runs to the end of its last sector; `output` is one cluster,
 * which holds garbage unless the result is ok.
 * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` when this build has no such codec
 */
export async function decodeCluster(
  type: CompressionType,
  input: Uint8Array,
  output: Uint8Array,
): Promise<DecodeResult> {
  const { codec, name } = codecs[type];
  if (native.codecs[name]) return native.decompressClusterAsync(codec, input, output);
  if (type !== 'zlib') throw missingCodec(type);
  return inflateWithNode(input, output);
}

async function inflateWithNode(input: Uint8Array, output: Uint8Array): Promise<DecodeResult> {
  const zlib = await import('node:zlib');
  const inflateRaw = promisify<Uint8Array, ZlibOptions, Buffer>(zlib.inflateRaw);
  const decoded = await inflateRaw(input, { maxOutputLength: output.length }).catch(() => null);
  if (decoded === null) return DecodeResult.damaged;
  output.set(decoded);
  return decoded.length < output.length ? DecodeResult.tooShort : DecodeResult.ok;
}

/**
 * Compresses whole clusters, off the main thread.
 * @param output memory for the streams, as long as `clusters`; new memory when absent
 * @returns for each cluster its stream, shorter than a cluster, or null when it does not get shorter
 */
export async function compressClusters(
  type: CompressionType,
  level: number | undefined,
  clusters: Uint8Array,
  clusterSize: number,
  output: Uint8Array = new Uint8Array(clusters.length),
): Promise<(Uint8Array | null)[]> {
  const { codec, name, defaultLevel } = codecs[type];
  const limit = clusterSize - 1;
  if (!native.codecs[name]) return compressWithNode(type, level, clusters, clusterSize);
  const count = clusters.length / clusterSize;
  const lengths = new Float64Array(count);
  await native.compressClusters(codec, level ?? defaultLevel, clusters, clusterSize, limit, output, lengths);
  let at = 0;
  return Array.from(lengths, (length) => {
    const stream = output.subarray(at, at + length);
    at += length;
    return length === 0 ? null : stream;
  });
}

async function compressWithNode(
  type: CompressionType,
  level: number | undefined,
  clusters: Uint8Array,
  clusterSize: number,
): Promise<(Uint8Array | null)[]> {
  if (type !== 'zlib') throw missingCodec(type);
  const zlib = await import('node:zlib');
  const deflateRaw = promisify<Uint8Array, ZlibOptions, Buffer>(zlib.deflateRaw);
  const streams: (Uint8Array | null)[] = [];
  for (let at = 0; at < clusters.length; at += clusterSize) {
    const stream = await deflateRaw(clusters.subarray(at, at + clusterSize), {
      level: Math.min(level ?? zlib.constants.Z_DEFAULT_COMPRESSION, zlib.constants.Z_BEST_COMPRESSION),
    });
    streams.push(stream.length < clusterSize ? stream : null);
  }
  return streams;
}

/** The error for a codec that this build of the addon does not have. */
function missingCodec(type: CompressionType): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The addon was compiled without ${type}. Install its development package (Debian: libdeflate-dev, libzstd-dev) and ` +
      'run `npm rebuild qcow2 --build-from-source`',
    { feature: 'compression_type' },
  );
}
