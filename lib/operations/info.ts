/** Gathering what there is to know about an image. */
import { bitmapFlags } from '../format/bitmap-directory.js';
import { hasFeature } from '../format/features.js';
import type { Header } from '../format/header.js';
import { parseLuksHeader } from '../format/luks.js';
import type { SnapshotEntry } from '../format/snapshot-table.js';
import { readLuksArea } from '../io/encryption/luks-area.js';
import { readBitmapDirectory } from '../metadata/bitmap-directory-io.js';
import type { Image } from '../metadata/image.js';
import { readSnapshotTable } from '../metadata/snapshot-table-io.js';
import type { BitmapInfo, EncryptionInfo, ImageInfo, SnapshotInfo } from './info-report.js';

export async function gatherInfo(image: Pick<Image, 'header' | 'storage'>): Promise<ImageInfo> {
  const { header, storage } = image;
  const { geometry } = header;
  const name = header.backingFile;
  return {
    format: 'qcow2',
    version: header.version,
    virtualSize: header.size,
    clusterSize: geometry.clusterSize,
    actualSize: (await storage.allocatedSize?.()) ?? null,
    fileSize: await storage.size(),
    compressionType: header.compressionType,
    lazyRefcounts: hasFeature(header, 'lazyRefcounts'),
    refcountBits: geometry.refcountBits,
    extendedL2: geometry.extendedL2,
    dirty: hasFeature(header, 'dirty'),
    corrupt: hasFeature(header, 'corrupt'),
    backing: name === null ? null : { name, format: header.backingFormat },
    dataFile: hasFeature(header, 'externalData')
      ? { name: header.dataFile, raw: hasFeature(header, 'rawExternal') }
      : null,
    encryption: await encryptionInfo(image),
    snapshots: (await readSnapshotTable(image)).map((entry) => snapshotInfo(entry, header)),
    bitmaps: await readBitmapInfo(image),
  };
}

/** What there is to know about a snapshot. */
export function snapshotInfo(entry: SnapshotEntry, header: Header): SnapshotInfo {
  const { id, name, vmStateSize, dateSeconds, dateNanoseconds, vmClockNanoseconds, icount, diskSize } = entry;
  return {
    id,
    name,
    vmStateSize,
    dateSeconds,
    dateNanoseconds,
    vmClockNanoseconds,
    icount,
    diskSize: diskSize ?? header.size,
  };
}

async function readBitmapInfo(image: Pick<Image, 'header' | 'storage'>): Promise<BitmapInfo[]> {
  return (await readBitmapDirectory(image)).map(({ name, granularityBits, flags }) => ({
    name,
    granularity: 2 ** granularityBits,
    flags: [
      ...((flags & bitmapFlags.inUse) !== 0 ? (['in-use'] as const) : []),
      ...((flags & bitmapFlags.auto) !== 0 ? (['auto'] as const) : []),
    ],
  }));
}

async function encryptionInfo({
  header,
  storage,
}: Pick<Image, 'header' | 'storage'>): Promise<EncryptionInfo | null> {
  if (header.cryptMethod === 'none') return null;
  if (header.cryptMethod === 'aes') return { format: 'aes' };
  const luks = parseLuksHeader(await readLuksArea(storage, header));
  const { cipherOfHeader } = await import('../io/encryption/algorithms.js');
  const spec = cipherOfHeader(luks);
  return {
    format: 'luks',
    cipherAlg: `aes-${spec.bits}`,
    cipherMode: spec.mode,
    ivgenAlg: spec.iv.generator,
    ivgenHashAlg: spec.iv.generator === 'essiv' ? spec.iv.hash : null,
    hashAlg: luks.hashSpec,
    uuid: luks.uuid,
    payloadOffset: luks.payloadOffset,
    masterKeyIterations: luks.masterKeyIterations,
    detachedHeader: false,
    slots: luks.slots.map((slot) => ({
      active: slot.active,
      keyOffset: slot.keyMaterialOffset,
      ...(slot.active ? { iterations: slot.iterations, stripes: slot.stripes } : {}),
    })),
  };
}
