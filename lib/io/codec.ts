/** Compressing clusters with the addon's codecs, or with node:zlib where it was built without them. */
import { promisify } from 'node:util';
import { deflateRaw, constants } from 'node:zlib';
import { Qcow2Error } from '../errors.js';
import type { CompressionType } from '../format/header-fields.js';
import { Codec, native } from '../native.js';

const deflateRawAsync = promisify(deflateRaw);

/** What each compression type is to the addon, and the level used when none is asked for. */
export const codecs = {
  zlib: { codec: Codec.deflate, name: 'deflate', defaultLevel: 1, maxLevel: 12 },
  zstd: { codec: Codec.zstd, name: 'zstd', defaultLevel: 3, maxLevel: 22 },
} as const satisfies Record<CompressionType, object>;

/**
 * Compresses whole clusters, off the main thread.
 * @returns for each cluster its stream, shorter than a cluster, or null when it does not get shorter
 */
export async function compressClusters(
  type: CompressionType,
  level: number | undefined,
  clusters: Uint8Array,
  clusterSize: number,
): Promise<(Uint8Array | null)[]> {
  const { codec, name, defaultLevel } = codecs[type];
  const limit = clusterSize - 1;
  if (!native.codecs[name]) return compressWithNode(type, level, clusters, clusterSize);
  const count = clusters.length / clusterSize;
  const output = new Uint8Array(count * limit);
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
  const streams: (Uint8Array | null)[] = [];
  for (let at = 0; at < clusters.length; at += clusterSize) {
    const stream = await deflateRawAsync(clusters.subarray(at, at + clusterSize), {
      level: Math.min(level ?? constants.Z_DEFAULT_COMPRESSION, constants.Z_BEST_COMPRESSION),
    });
    streams.push(stream.length < clusterSize ? stream : null);
  }
  return streams;
}

/** The error for a codec that this build of the addon does not have. */
export function missingCodec(type: CompressionType): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The addon was compiled without ${type}. Install its development package (Debian: libdeflate-dev, libzstd-dev) and ` +
      'run `npm rebuild qcow2 --build-from-source`',
    { feature: 'compression_type' },
  );
}
