/** A picture of an image in numbers: what is where in its disk and in its file, by equal parts. */
import { readRefcountTableEntry, tableLength, tableView } from '../format/table-entry.js';
import { hostPartStride } from '../native/l2-picture.js';
import type { Qcow2 } from '../qcow2.js';
import { CheckContext } from './check/context.js';
import { Findings } from './check/findings.js';
import { CheckProgress } from './check/reader.js';
import { countReferences } from './check/references.js';
import { compareRefcounts } from './check/refcounts.js';
import { layersOf } from './layers.js';
import { layerPicture, type HostParts } from './picture/layer.js';
import type { FileKind, ImagePicture, PartList, PictureOptions } from './picture/record.js';
import { addRange, emptyParts, partBytesFor, partCount } from './picture/parts.js';
import { fileKinds } from './picture/record.js';

const defaultParts = 1024;
const minParts = 16;
const maxParts = 8192;
/** Into how many parts disk and file are cut in {@link ImagePicture.links}. */
const linkSide = 128;

/**
 * Adds up where everything in an image is. Takes memory for about a byte for each cluster of the file while it runs, and
 * for the parts; never for what the image holds. Damage is counted, never thrown. An image that is open for writing
 * is flushed first; what is written meanwhile may be pictured in part.
 * @throws the reason of an aborted signal; an Error `ERR_QCOW2_LIMIT` when `memoryLimit` does not suffice
 */
export async function imagePicture(image: Qcow2, options: PictureOptions = {}): Promise<ImagePicture> {
  const { parts = defaultParts } = options;
  if (!Number.isInteger(parts) || parts < minParts || parts > maxParts) {
    throw new RangeError(`parts must be an integer from ${minParts} to ${maxParts}, not ${String(parts)}`);
  }
  if (image.guest.image.writable) await image.flush();
  const progress = new CheckProgress(options);
  const { geometry, storage, dataStorage } = image.guest.image;
  const context = await CheckContext.of(
    image.guest.image,
    new Findings({ maxFindings: 0 }),
    progress,
    options,
  );
  await countReferences(context, { refcountStructure: true });

  const file = emptyParts(
    fileKinds,
    context.fileSize,
    partBytesFor(context.fileSize, parts, geometry.clusterSize),
  );
  const refcounts = await addLeaks(context, file);
  const metadata = addMetadata(context, file);
  const isSeparate = dataStorage !== storage;
  const dataSize = isSeparate ? await dataStorage.size() : context.fileSize;
  const dataPart = isSeparate ? partBytesFor(dataSize, parts, geometry.clusterSize) : file.partBytes;
  const host: HostParts = {
    partBytes: dataPart,
    bytes: new Float64Array(partCount(dataSize, dataPart) * hostPartStride),
    links: new Float64Array(linkSide ** 2),
  };

  const layers = [];
  const partBytes = partBytesFor(image.size, parts, geometry.clusterSize);
  let name: string | null = null;
  for (const layer of layersOf(image)) {
    layers.push(
      await layerPicture(layer, name, image.size, partBytes, progress, layers.length === 0 ? host : null),
    );
    name = layer.guest?.image.header.backingFile ?? null;
  }
  addStored(context, file, isSeparate ? null : host);
  const info = await image.info();
  return {
    virtualSize: image.size,
    clusterSize: geometry.clusterSize,
    layers,
    file,
    dataFile: isSeparate ? dataFileParts(dataSize, host) : null,
    metadata,
    links: { side: linkSide, bytes: host.links },
    ...refcounts,
    snapshots: info.snapshots,
    bitmaps: info.bitmaps,
  };
}

/** Clusters with a refcount that nothing refers to, and how many refcounts are wrong. */
async function addLeaks(
  context: CheckContext,
  file: PartList<FileKind>,
): Promise<Pick<ImagePicture, 'refcountsTooLow' | 'refcountsTooHigh'>> {
  const { clusterSize } = context.image.geometry;
  const found = { refcountsTooLow: 0, refcountsTooHigh: 0 };
  await compareRefcounts(context, context.counts, ({ first, count, stored, counted }) => {
    if (stored < counted) found.refcountsTooLow += count;
    else found.refcountsTooHigh += count;
    if (counted === 0) addRange(file, 'leaked', first * clusterSize, count * clusterSize);
  });
  return found;
}

/** Everything that is metadata, in whole clusters, as the file is handed out. */
function addMetadata(context: CheckContext, file: PartList<FileKind>): ImagePicture['metadata'] {
  const { image, areas, activeTables, snapshotTables } = context;
  const { clusterSize } = image.geometry;
  const totals = new Map<string, number>();
  const add = (what: string, start: number, length: number): void => {
    const bytes = Math.ceil(length / clusterSize) * clusterSize;
    totals.set(what, (totals.get(what) ?? 0) + bytes);
    addRange(file, 'metadata', start, bytes);
  };
  for (const { what, start, length } of areas) add(groupOf(what), start, length);
  for (const offset of activeTables.offsets) add('L2 tables', offset, clusterSize);
  for (const offset of snapshotTables.offsets) {
    if (activeTables.timesOf(offset) === 0) add("snapshots' L2 tables", offset, clusterSize);
  }
  const table = tableView(image.refcounts.tableBytes);
  for (let index = 0; index < tableLength(table); index++) {
    const offset = readRefcountTableEntry(table, index, clusterSize);
    if (offset > 0 && offset < context.fileEnd) add('refcount blocks', offset, clusterSize);
  }
  return Array.from(totals, ([what, bytes]) => ({ what, bytes })).sort((a, b) => b.bytes - a.bytes);
}

/** The name of an area without whose it is: an image may have tens of thousands of snapshots. */
function groupOf(what: string): string {
  if (what.includes('L1 table of snapshot')) return "snapshots' L1 tables";
  if (what.includes('table of bitmap')) return "bitmaps' tables";
  return what.replace(/^the (active )?/, '');
}

/** What the active disk stores in the file, and what is left over by parts. */
function addStored(context: CheckContext, file: PartList<FileKind>, host: HostParts | null): void {
  const { clusterSize } = context.image.geometry;
  const perPart = file.partBytes / clusterSize;
  const hasSnapshots = context.snapshotTables.offsets.length > 0;
  for (let part = 0; part < file.bytes.free.length; part++) {
    const first = part * perPart;
    const referenced = context.counts.countUsed(first, first + perPart) * clusterSize;
    let left = referenced - (file.bytes.metadata[part] ?? 0);
    const take = (kind: FileKind, bytes: number): void => {
      const taken = Math.max(0, Math.min(left, bytes));
      file.bytes[kind][part] = taken;
      left -= taken;
    };
    const [data = 0, compressed = 0, kept = 0] =
      host?.bytes.subarray(part * hostPartStride, (part + 1) * hostPartStride) ?? [];
    take('data', data);
    take('kept', kept);
    // Compressed clusters share host clusters, which are referred to as wholes.
    take('compressed', compressed > 0 && !hasSnapshots ? left : compressed);
    take('other', left);
    const whole = Math.min(
      file.partBytes,
      Math.ceil((file.size - part * file.partBytes) / clusterSize) * clusterSize,
    );
    file.bytes.free[part] = Math.max(0, whole - referenced - (file.bytes.leaked[part] ?? 0));
  }
}

/** An external data file has no metadata, and nothing that tells what of it is free. */
function dataFileParts(size: number, host: HostParts): PartList<FileKind> {
  const parts = emptyParts(fileKinds, size, host.partBytes);
  for (let part = 0; part < parts.bytes.free.length; part++) {
    const [data = 0, , kept = 0] = host.bytes.subarray(part * hostPartStride, (part + 1) * hostPartStride);
    parts.bytes.data[part] = data;
    parts.bytes.kept[part] = kept;
    parts.bytes.free[part] = Math.max(
      0,
      Math.min(host.partBytes, size - part * host.partBytes) - data - kept,
    );
  }
  return parts;
}
