/** Compressed clusters. */

/** The codecs of compressed clusters, by the value of the header field compression_type. */
export const Codec = {
  /** Raw deflate streams without zlib header (the specification's "zlib"). Levels 1 to 12. */
  deflate: 0,
  /** Zstandard frames. Levels 1 to 22. */
  zstd: 1,
} as const;
export type Codec = (typeof Codec)[keyof typeof Codec];

/** What came of decoding a cluster. */
export const DecodeResult = {
  ok: 0,
  /** No stream of this codec, or one with errors inside. */
  damaged: 1,
  /** The stream ends before the cluster is full. */
  tooShort: 2,
  /** The stream goes on after the cluster is full. */
  tooLong: 3,
  noMemory: 4,
} as const;
export type DecodeResult = (typeof DecodeResult)[keyof typeof DecodeResult];

/** Numbers per cluster in the jobs of {@link CodecFunctions.decompressClusters}: input offset, input length, output offset. */
export const decodeJobStride = 3;

export interface CodecFunctions {
  /** Which codecs the addon was built with; the functions below refuse the others with `ERR_INVALID_ARG_VALUE`. */
  readonly codecs: { readonly deflate: boolean; readonly zstd: boolean };
  /**
   * Decodes one compressed cluster. `input` runs to the end of its last sector: what follows the stream is ignored.
   * `output` is a whole cluster (its length a power of two, 512 bytes to 2 MiB); unless the result is ok it holds
   * garbage. The input shares no memory with it.
   */
  decompressCluster(codec: Codec, input: Uint8Array, output: Uint8Array): DecodeResult;
  /** {@link decompressCluster} on the thread pool. */
  decompressClusterAsync(codec: Codec, input: Uint8Array, output: Uint8Array): Promise<DecodeResult>;
  /**
   * Decodes many clusters in one piece of work: `jobs` has {@link decodeJobStride} numbers for each. Writes one
   * {@link DecodeResult} per job to `results` and resolves with the number of jobs that are not ok.
   */
  decompressClusters(
    codec: Codec,
    input: Uint8Array,
    jobs: Float64Array,
    output: Uint8Array,
    clusterSize: number,
    results: Uint8Array,
  ): Promise<number>;
  /**
   * Encodes the clusters of `input` one behind the other, without gaps, into `output`, which has room for `limit` bytes
   * each. Writes the length of each to `lengths`: 0 for a cluster that does not compress to `limit` bytes or less, which
   * leaves nothing in the output. Resolves with the bytes written. Rejects with `ENOMEM` when memory runs out.
   */
  compressClusters(
    codec: Codec,
    level: number,
    input: Uint8Array,
    clusterSize: number,
    limit: number,
    output: Uint8Array,
    lengths: Float64Array,
  ): Promise<number>;
}
