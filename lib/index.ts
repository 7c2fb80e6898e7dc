/** The public face of the package. Start at {@link open} and {@link create}. */
export { openChain, type ChainLayer } from './chain.js';
export { create } from './create.js';
export { open, openDisk, Qcow2 } from './qcow2.js';
export { readInfo } from './read-info.js';
export type {
  ByteRange,
  Disk,
  Extent,
  ExtentQuery,
  ExtentType,
  Job,
  Op,
  Progress,
  WritableDisk,
} from './disk.js';
export { errorCodes, Qcow2Error, type Qcow2ErrorCode, type Qcow2ErrorDetails } from './errors.js';
export type { Header } from './format/header.js';
export { ConcatenatedDisk, DiskSlice, SalvagedDisk } from './io/derived-disk.js';
export { extentTypes } from './io/extent-rows.js';
export { extentRows } from './io/extents.js';
export { RawDisk } from './io/raw-disk.js';
export type { DiscardOptions, WriteOptions } from './io/requests.js';
export type { ImageEvent, RequestEvent } from './io/channels.js';
export {
  latencyBounds,
  requestKinds,
  type CacheStats,
  type DiskStats,
  type LatencyHistogram,
  type RequestKind,
  type RequestStats,
} from './io/statistics.js';
export type { AmendOptions } from './operations/amend.js';
export type { AddKeyOptions, RemoveKeyOptions } from './operations/amend/keys.js';
export { dehydrate, type DehydrateOptions } from './operations/dehydrate.js';
export { rehydrate, type RehydrateOptions } from './operations/rehydrate.js';
export type { CompactOptions, CompactReport } from './operations/compact/job.js';
export type { Checkpoint, Resumable } from './operations/jobs/checkpoint.js';
export type { CommitOptions } from './operations/commit.js';
export type { BackingName, RebaseOptions } from './operations/rebase.js';
export { BlockSet, type BlockRun, type ByteRun } from './operations/block-set.js';
export { storedBlocks } from './operations/stored-blocks.js';
export { difference, type DifferenceOptions, type Since } from './operations/difference.js';
export {
  hash,
  verify,
  type DiskHashes,
  type HashAlgorithm,
  type HashOptions,
  type Mismatch,
  type VerifyOptions,
} from './operations/hash.js';
export { compare, type CompareOptions, type Difference } from './operations/compare.js';
export { imagePicture } from './operations/image-picture.js';
export {
  fileKinds,
  guestKinds,
  type FileKind,
  type GuestKind,
  type ImagePicture,
  type LayerPicture,
  type PartList,
  type PictureOptions,
} from './operations/picture/record.js';
export { measure, type EmptyDisk, type MeasureOptions, type Measurement } from './operations/measure.js';
export type {
  ImageInfo,
  BitmapInfo,
  EncryptionInfo,
  KeySlotInfo,
  SnapshotInfo,
} from './operations/info-report.js';
export type {
  Bitmap,
  Bitmaps,
  BitmapQuery,
  BitmapSource,
  CreateBitmapOptions,
  PackedBitmap,
} from './operations/bitmaps.js';
export type { DirtyExtent } from './metadata/bitmap-bits.js';
export type {
  CheckOptions,
  CheckReport,
  Finding,
  FindingKind,
  RepairTier,
  Severity,
} from './operations/check/report.js';
export { convert, type ConvertOptions } from './operations/convert.js';
export { resizeRaw, type ResizeRawOptions } from './operations/resize/raw.js';
export type { CreateSnapshotOptions, Snapshots } from './operations/snapshots.js';
export type { ResizeOptions } from './operations/resize.js';
export type {
  BackingChoice,
  CreateOptions,
  ImageFormat,
  LuksOptions,
  OpenOptions,
  Reference,
  ResolvePolicy,
  Source,
} from './options.js';
export type { SizedStream } from './streams/byte-source.js';
export {
  fromQcow2Stream,
  readQcow2Stream,
  type FromQcow2StreamOptions,
  type Qcow2StreamReader,
  type ReadQcow2StreamOptions,
} from './streams/from-qcow2-stream.js';
export type { StreamPiece } from './streams/pieces.js';
export { toQcow2Stream, type ToQcow2StreamOptions } from './streams/to-qcow2-stream.js';
export { openTemporaryOverlay, type TemporaryOverlayOptions } from './temporary-overlay.js';
export { DescriptorStream } from './storage/descriptor-stream.js';
export { FileStorage } from './storage/file.js';
export { MemoryStorage } from './storage/memory.js';
export type { Storage } from './storage/storage.js';
export type { Window } from './storage/window.js';
