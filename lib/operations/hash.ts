/** Hashes of a disk, block by block and of the whole, and verifying a disk by them. All hashing is off the main thread. */
import type { ByteRange, Disk, Job } from '../disk.js';
import { invalidArgType, invalidArgValue, outOfRange, Qcow2Error } from '../errors.js';
import { queryRange } from '../io/disk-queries.js';
import { native } from '../native.js';
import type { ImageFormat, OpenOptions, Source } from '../options.js';
import { openSourceDisk } from './convert.js';
import { Digester, digestLengths, type HashAlgorithm } from './digester.js';
import { defaultConcurrency, inOrder } from './jobs/in-order.js';
import { storedBlocks } from './stored-blocks.js';
import { closeAll } from '../storage/closable.js';

export type { HashAlgorithm } from './digester.js';

interface HashSource {
  /** Format of a source that is not an open disk; without it the first bytes tell. */
  sourceFormat?: ImageFormat;
  /** How a source that is not an open disk is opened. */
  open?: Omit<OpenOptions, 'mode' | 'forRepair'>;
}

export interface HashOptions extends Job, HashSource {
  /** `sha256` (default), or `xxh64`, which is several times faster and finds damage but no forgery. */
  algorithm?: HashAlgorithm;
  /** Bytes of a block, a multiple of 512 up to 64 MiB; 4 MiB by default. */
  blockSize?: number;
  /**
   * Hashes all bytes of the disk as one, too, zeros included, as `sha256sum` does with a raw file. True by default; false spares
   * the time that the zeros of a large empty disk take.
   */
  content?: boolean;
}

/** The hashes of a disk. To keep them as JSON, write `blocks` and `content` as text: see docs/guides/backing-up.md. */
export interface DiskHashes {
  /** The hash function of all digests. */
  algorithm: HashAlgorithm;
  /** Virtual size of the disk, bytes. */
  size: number;
  /** Bytes; the last block ends with the disk. */
  blockSize: number;
  /** The digests of all blocks, one behind the other. */
  blocks: Uint8Array;
  /** The digest of all bytes of the disk, or null when it was not wanted. */
  content: Uint8Array | null;
}

export interface VerifyOptions extends Job, HashSource, ByteRange {}

/** A block that is not what it was. */
export interface Mismatch {
  /** First byte. */
  start: number;
  /** Bytes. */
  length: number;
  /** The digest the block had. */
  expected: Uint8Array;
  /** The digest it has. */
  actual: Uint8Array;
}

const defaultBlockSize = 4 * 1024 * 1024;
const maxBlockSize = 64 * 1024 * 1024;
const maxDigestBytes = 2 ** 30;

/** A block and its digest; `bytes` is null where it is all zeros. */
interface Hashed {
  readonly index: number;
  readonly length: number;
  readonly bytes: Uint8Array | null;
  readonly digest: Uint8Array;
}

/**
 * Hashes a disk in one pass. Blocks that the disk's tables or their bytes show to be zeros are not hashed, but have the digest
 * that zeros have.
 * @throws TypeError, RangeError for options; Qcow2Error `ERR_QCOW2_LIMIT` for more than 1 GiB of digests; errors of the
 * source; the signal's reason
 */
export async function hash(source: Disk | Source, options: HashOptions = {}): Promise<DiskHashes> {
  const { algorithm = 'sha256', blockSize = defaultBlockSize, content = true } = options;
  check(algorithm, blockSize);
  const { disk, owned } = await openSourceDisk(source, options);
  const digester = new Digester(algorithm, content);
  try {
    const { size } = disk;
    const length = digestLengths[algorithm];
    const count = Math.ceil(size / blockSize);
    refuseTooMany(count * length, blockSize);
    const blocks = new Uint8Array(count * length);
    for await (const { index, digest } of hashBlocks(
      disk,
      digester,
      blockSize,
      { start: 0, end: size },
      options,
    )) {
      blocks.set(digest, index * length);
    }
    return { algorithm, size, blockSize, blocks, content: await digester.content() };
  } finally {
    await digester.close();
    await closeAll(owned);
  }
}

/**
 * The blocks of a disk that do not have the digests of a list, in order. It can be taken up again: `done` of `onProgress` counts
 * from the beginning of the range, and a range beginning at `start + done` goes on there.
 * @param hashes what {@link hash} gave of the disk as it should be
 * @throws as {@link hash}; Qcow2Error `ERR_QCOW2_CONFLICT` when the list is of a disk of another size
 */
export async function* verify(
  source: Disk | Source,
  hashes: DiskHashes,
  options: VerifyOptions = {},
): AsyncGenerator<Mismatch> {
  const { algorithm, blockSize, size, blocks } = hashes;
  check(algorithm, blockSize);
  const length = digestLengths[algorithm];
  // JSON makes something else of it.
  if (!(blocks instanceof Uint8Array)) throw invalidArgType('hashes.blocks', 'a Uint8Array', blocks);
  if (blocks.length !== Math.ceil(size / blockSize) * length) {
    throw invalidArgValue(
      'hashes',
      'must have one digest for each block',
      `${blocks.length} bytes of digests`,
    );
  }
  const { disk, owned } = await openSourceDisk(source, options);
  const digester = new Digester(algorithm, false);
  try {
    if (disk.size !== size) {
      throw new Qcow2Error(
        'ERR_QCOW2_CONFLICT',
        `The disk has ${disk.size} bytes; the hashes are of ${size} bytes`,
        {
          feature: 'size',
        },
      );
    }
    const range = queryRange(size, options);
    for await (const { index, digest: actual } of hashBlocks(disk, digester, blockSize, range, options)) {
      const expected = blocks.subarray(index * length, (index + 1) * length);
      if (Buffer.compare(expected, actual) === 0) continue;
      const start = index * blockSize;
      yield { start, length: Math.min(blockSize, size - start), expected, actual };
    }
  } finally {
    await digester.close();
    await closeAll(owned);
  }
}

function check(algorithm: HashAlgorithm, blockSize: number): void {
  if (!Object.hasOwn(digestLengths, algorithm)) {
    throw invalidArgValue('algorithm', `must be one of ${Object.keys(digestLengths).join(', ')}`, algorithm);
  }
  if (!Number.isInteger(blockSize) || blockSize < 512 || blockSize % 512 !== 0 || blockSize > maxBlockSize) {
    throw outOfRange('blockSize', `a multiple of 512 up to ${maxBlockSize}`, blockSize);
  }
}

function refuseTooMany(bytes: number, blockSize: number): void {
  if (bytes <= maxDigestBytes) return;
  throw new Qcow2Error(
    'ERR_QCOW2_LIMIT',
    `The digests of all blocks of ${blockSize} bytes would take ${bytes} bytes; at most ${maxDigestBytes} are kept. Use larger ` +
      'blocks',
    { feature: 'blockSize' },
  );
}

/** The digests of the blocks that a range touches, in order. */
async function* hashBlocks(
  disk: Disk,
  digester: Digester,
  blockSize: number,
  { start, end }: { start: number; end: number },
  { signal, onProgress, concurrency = defaultConcurrency }: Job,
): AsyncGenerator<Hashed> {
  const stored = await storedBlocks(disk, blockSize, signal === undefined ? {} : { signal });
  const first = Math.floor(start / blockSize);
  const last = Math.ceil(end / blockSize);
  async function* indexes(): AsyncGenerator<number> {
    for (let index = first; index < last; index++) yield index;
    await Promise.resolve();
  }
  const results = inOrder(indexes(), Math.max(1, concurrency), async (index) => {
    signal?.throwIfAborted();
    const position = index * blockSize;
    const length = Math.min(blockSize, disk.size - position);
    const bytes = stored.has(index) ? await readBlock(disk, position, length) : null;
    const digest = bytes === null ? await digester.zeros(length) : await digester.block(bytes);
    return { index, length, bytes, digest };
  });
  for await (const hashed of results) {
    await digester.append(hashed.bytes ?? hashed.length);
    yield hashed;
    onProgress?.({ done: Math.min((hashed.index + 1) * blockSize, end) - start, total: end - start });
  }
}

/** The bytes of a block, or null for zeros. */
async function readBlock(disk: Disk, position: number, length: number): Promise<Uint8Array | null> {
  const bytes = new Uint8Array(length);
  await disk.read(bytes, position);
  return native.isZero(bytes) ? null : bytes;
}
