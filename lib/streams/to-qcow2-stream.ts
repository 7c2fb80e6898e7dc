/** toQcow2Stream(): a disk as a qcow2 image that is written front to back, to something that cannot seek. */
import type { Disk, Job } from '../disk.js';
import { geometry } from '../format/geometry.js';
import type { CreateOptions, ImageFormat, OpenOptions, Source } from '../options.js';
import type { ByteRun } from '../operations/block-set.js';
import { openSourceDisk } from '../operations/convert.js';
import { firstCluster, planLayout, refuseUnfitting, type Layout } from '../operations/create.js';
import { pauses } from '../operations/jobs/pauses.js';
import { SizedStream, type Announce } from './byte-source.js';
import { compressedImage, compressedPlaces } from './compressed.js';
import { chooseContents, readClusters, type Contents } from './contents.js';
import { countTables, placeAll, tablePlaces, type Places } from './places.js';
import { l1Table, l2FlagsFor, l2Tables, refcountBlocks, refcountTable } from './tables.js';
import { closeAll } from '../storage/closable.js';

/** What goes into the stream, and in which shape. */
export interface ToQcow2StreamOptions
  extends
    Pick<Job, 'signal' | 'onProgress'>,
    Pick<
      CreateOptions,
      'version' | 'clusterSize' | 'refcountBits' | 'lazyRefcounts' | 'extendedL2' | 'compressionType'
    > {
  /** Format of a source that is not an open disk; without it the first bytes tell. */
  sourceFormat?: ImageFormat;
  /** How a source that is not an open disk is opened. */
  open?: Omit<OpenOptions, 'mode' | 'forRepair'>;
  /**
   * Makes the stream incremental: only these bytes of the disk go into it, in whole clusters, such as the dirty extents of a
   * bitmap (`image.bitmaps.extents(name)`) or a {@link difference}. What of them reads as zeros is said to be zeros.
   */
  changes?: AsyncIterable<ByteRun> | Iterable<ByteRun>;
  /** The backing file to be named. It is not opened. Without `changes` it is hidden by all that the disk has stored only. */
  backing?: {
    /** At most 1023 bytes as UTF-8. */
    name: string;
    /** Its format. */
    format?: ImageFormat;
  };
  /** Reads everything that is stored once before, to leave out clusters of zeros. Without it the disk's tables decide. */
  scanZeros?: boolean;
  /**
   * Stores clusters compressed where that makes them smaller, and leaves out clusters of zeros. The disk is read and compressed
   * twice for that, because an image's beginning tells where everything is.
   */
  compress?: boolean;
  /** As in `convert`: zlib 1 to 12, zstd 1 to 22. */
  compressionLevel?: number;
}

/**
 * Streams a disk as a qcow2 image: header, refcounts, L1 table, L2 tables, then data in the order of the disk. Reads what
 * the disk has stored and holds a few MiB (compressed up to 64 more) and one bit for each cluster in memory, whatever its size. The disk must not change
 * meanwhile; it stays open.
 * @returns a stream whose `length`, in bytes, is set before its first byte comes; `sized()` waits for it. It fails with Qcow2Error
 * `ERR_QCOW2_LIMIT` when the disk is too large for its clusters, with errors of the source, with the signal's reason
 */
export function toQcow2Stream(source: Disk | Source, options: ToQcow2StreamOptions = {}): SizedStream {
  const layout = layoutOf(options);
  const { signal, onProgress } = options;
  return new SizedStream(
    (announce, stopped) => opened(source, options, (disk) => image(disk, layout, options, announce, stopped)),
    signal,
    onProgress === undefined ? undefined : (done, total) => onProgress({ done, total }),
  );
}

function layoutOf(options: ToQcow2StreamOptions): Layout {
  const { version, clusterSize, refcountBits, lazyRefcounts, extendedL2, compressionType, backing } = options;
  const given = { version, clusterSize, refcountBits, lazyRefcounts, extendedL2, compressionType, backing };
  const defined = Object.entries(given).filter(([, value]) => value !== undefined);
  return planLayout(Object.fromEntries(defined));
}

/** Opens a source for as long as its bytes are wanted. */
async function* opened(
  source: Disk | Source,
  options: ToQcow2StreamOptions,
  use: (disk: Disk) => AsyncGenerator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const { disk, owned } = await openSourceDisk(source, options);
  try {
    yield* use(disk);
  } finally {
    await closeAll(owned);
  }
}

async function* image(
  disk: Disk,
  layout: Layout,
  options: ToQcow2StreamOptions,
  announce: Announce,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { changes = null, scanZeros = false } = options;
  const shape = geometry(layout.clusterBits, layout.refcountOrder, options.extendedL2 ?? false);
  refuseUnfitting(layout, disk.size);
  const contents = await chooseContents(disk, {
    clusterSize: shape.clusterSize,
    changes,
    canTellZero: layout.version === 3,
    // Compressing looks at everything anyway.
    scanZeros: scanZeros && options.compress !== true,
    signal,
  });
  const tables = await countTables(contents, shape, pauses());
  const places = placeAll(contents, shape, tables);
  if (options.compress === true) {
    const { compressionLevel: level } = options;
    const storesZeros = changes !== null && contents.zero === null;
    const packed = compressedPlaces(places);
    yield* compressedImage(
      { disk, contents, layout, shape, places: packed, level, storesZeros, signal },
      announce,
    );
    return;
  }
  announce(places.end * shape.clusterSize);
  yield* metadata(contents, layout, shape, places);
  yield* data(disk, contents, signal);
}

/** Everything before the data. */
export function* metadata(
  contents: Contents,
  layout: Layout,
  shape: ReturnType<typeof geometry>,
  places: Places,
): Generator<Uint8Array> {
  yield firstCluster(layout, 'final', tablePlaces(contents, shape, places), null);
  yield* refcountTable(shape, places);
  yield* refcountBlocks(shape, places);
  yield* l1Table(contents, shape, places);
  yield* l2Tables(contents, shape, l2FlagsFor(layout.version, shape), places);
}

async function* data(disk: Disk, { stored }: Contents, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for await (const { bytes } of readClusters(disk, stored, 0, stored.length, signal)) yield bytes;
}
