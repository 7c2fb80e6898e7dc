/** What one image of a chain holds, by equal parts of the disk, and where its file has it. */
import type { Disk } from '../../disk.js';
import { readL1Entry, tableLength, tableView } from '../../format/table-entry.js';
import type { GuestImage } from '../../io/guest-image.js';
import { native, RunKind } from '../../native.js';
import { guestPartStride, hostPartStride, piecesColumn } from '../../native/l2-picture.js';
import { readClusters, type CheckProgress } from '../check/reader.js';
import type { Layer } from '../layers.js';
import { addRange, emptyParts } from './parts.js';
import { guestKinds, type GuestKind, type LayerPicture, type PartList } from './record.js';

/** Bytes of a table that are added in one call, which bounds how long the call takes. */
const sliceBytes = 64 * 1024;

/** Where in a file the data lies, as the native function adds it up. */
export interface HostParts {
  readonly partBytes: number;
  readonly bytes: Float64Array;
  readonly links: Float64Array;
}

/**
 * @param size bytes of the disk that are pictured
 * @param host gets where the file has them; null when nobody wants to know
 */
export async function layerPicture(
  layer: Layer,
  name: string | null,
  size: number,
  partBytes: number,
  progress: CheckProgress,
  host: HostParts | null,
): Promise<LayerPicture> {
  const disk = emptyParts(guestKinds, size, partBytes);
  const pieces = new Float64Array(disk.bytes.data.length);
  const end = Math.min(size, layer.size);
  if (layer.guest !== null) await addTables(layer.guest, end, disk, pieces, progress, host);
  else await addExtents(layer.disk, end, disk, progress);
  return { name, format: layer.guest === null ? 'raw' : 'qcow2', size: layer.size, disk, pieces };
}

/** Adds all L2 tables of an image in the order of the disk. */
async function addTables(
  { image }: GuestImage,
  size: number,
  disk: PartList<GuestKind>,
  pieces: Float64Array,
  progress: CheckProgress,
  host: HostParts | null,
): Promise<void> {
  const { geometry, mapping, storage } = image;
  const { clusterSize, clusterBits, l2Coverage, l2EntrySize } = geometry;
  const { starts, offsets } = tablesOf(mapping.l1Bytes, clusterSize, l2Coverage, size, disk);
  const rows = new Float64Array(pieces.length * guestPartStride);
  const into = host ?? {
    partBytes: clusterSize,
    bytes: new Float64Array(hostPartStride),
    links: new Float64Array(1),
  };
  const step = Math.min(sliceBytes, clusterSize);
  progress.expect(offsets.length * clusterSize);
  let expected = 0;
  for await (const batch of readClusters(storage, offsets, clusterSize, progress)) {
    for (let i = 0; i < batch.offsets.length; i++) {
      const start = starts[batch.first + i] ?? 0;
      if (batch.failures.has(i)) {
        addRange(disk, 'damaged', start, Math.min(l2Coverage, size - start));
        continue;
      }
      for (let at = 0; at < clusterSize; at += step) {
        const from = start + (at / l2EntrySize) * clusterSize;
        if (from >= size) break;
        const table = batch.bytes.subarray(i * clusterSize + at, i * clusterSize + at + step);
        expected = native.addToPicture(
          table,
          mapping.l2Flags,
          clusterBits,
          from,
          size,
          expected,
          disk.partBytes,
          into.partBytes,
          rows,
          into.bytes,
          into.links,
        );
      }
    }
  }
  takeRows(rows, disk, pieces);
}

/** Guest offsets and host offsets of the L2 tables; ranges without one are added to `disk`. */
function tablesOf(
  l1: Uint8Array,
  clusterSize: number,
  coverage: number,
  size: number,
  disk: PartList<GuestKind>,
): { starts: number[]; offsets: Float64Array } {
  const view = tableView(l1);
  const starts: number[] = [];
  const offsets: number[] = [];
  for (let start = 0, index = 0; start < size; start += coverage, index++) {
    const offset = index < tableLength(view) ? readL1Entry(view, index, clusterSize) : 0;
    if (offset > 0) {
      starts.push(start);
      offsets.push(offset);
    } else {
      addRange(disk, offset === 0 ? 'unallocated' : 'damaged', start, Math.min(coverage, size - start));
    }
  }
  return { starts, offsets: Float64Array.from(offsets) };
}

const kindOf: Record<RunKind, GuestKind> = {
  [RunKind.unallocated]: 'unallocated',
  [RunKind.zero]: 'zero',
  [RunKind.zeroAllocated]: 'zero',
  [RunKind.data]: 'data',
  [RunKind.compressed]: 'compressed',
  [RunKind.unallocatedInCluster]: 'unallocated',
  [RunKind.invalid]: 'damaged',
};

function takeRows(rows: Float64Array, disk: PartList<GuestKind>, pieces: Float64Array): void {
  for (let part = 0; part < pieces.length; part++) {
    const row = part * guestPartStride;
    for (const kind of Object.values(RunKind)) {
      const list = disk.bytes[kindOf[kind]];
      list[part] = (list[part] ?? 0) + (rows[row + kind] ?? 0);
    }
    pieces[part] = rows[row + piecesColumn] ?? 0;
  }
}

/** A raw file: what its file system stores of it. */
async function addExtents(
  disk: Disk,
  size: number,
  parts: PartList<GuestKind>,
  progress: CheckProgress,
): Promise<void> {
  if (size === 0) return;
  for await (const { type, start, length } of disk.extents({ start: 0, length: size })) {
    progress.throwIfAborted();
    addRange(parts, type === 'data' ? 'data' : 'zero', start, length);
  }
}
