/** What `info` tells about one image, for people and as JSON. */
import type {
  BitmapInfo,
  EncryptionInfo,
  ImageInfo,
  KeySlotInfo,
  SnapshotInfo,
} from '../operations/info-report.js';
import { isList, members } from './json.js';
import type { Json, JsonObject } from './json.js';
import { snapshotTable } from './print-snapshots.js';
import { humanSize } from './sizes.js';

/** An image with what its file name adds to what is in it. */
export interface ImageDescription {
  /** As it is to be shown. */
  name: string;
  /** Or the protocol, where that was asked for. */
  format: string;
  virtualSize: number;
  /** Bytes on the medium, or null where nobody can tell. */
  actualSize: number | null;
  /** The name of the backing file as one would open it from here, or null. */
  fullBackingName: string | null;
  /** What is in it; null for a raw image. */
  details: ImageInfo | null;
}

/** The members in the order in which qemu-img prints them. */
export function infoJson(image: ImageDescription): JsonObject {
  const { details } = image;
  return {
    snapshots: emptyToNothing(details?.snapshots.map(snapshotJson)),
    'backing-filename-format': details?.backing?.format ?? undefined,
    'virtual-size': image.virtualSize,
    filename: image.name,
    'cluster-size': details?.clusterSize,
    format: image.format,
    'actual-size': image.actualSize ?? undefined,
    'format-specific': details === null ? undefined : { type: 'qcow2', data: specificJson(details) },
    'full-backing-filename': image.fullBackingName ?? undefined,
    encrypted: isEncrypted(image) ? true : undefined,
    'backing-filename': details?.backing?.name,
    'dirty-flag': details?.dirty ?? false,
  };
}

/** @param foreign makes text from the image fit to be shown */
export function infoText(image: ImageDescription, foreign: (text: string) => string): string {
  const { details } = image;
  const size = image.actualSize === null ? 'unavailable' : humanSize(image.actualSize);
  return [
    `image: ${foreign(image.name)}\n`,
    `file format: ${image.format}\n`,
    `virtual size: ${humanSize(image.virtualSize)} (${image.virtualSize} bytes)\n`,
    `disk size: ${size}\n`,
    ...(details === null ? [] : detailLines(image, details, foreign)),
  ].join('');
}

function* detailLines(
  image: ImageDescription,
  details: ImageInfo,
  foreign: (text: string) => string,
): Generator<string> {
  if (isEncrypted(image)) yield 'encrypted: yes\n';
  yield `cluster_size: ${details.clusterSize}\n`;
  if (details.dirty) yield 'cleanly shut down: no\n';
  if (details.backing !== null) {
    const { name, format } = details.backing;
    const full = image.fullBackingName ?? name;
    yield `backing file: ${foreign(name)}${full === name ? '' : ` (actual path: ${foreign(full)})`}\n`;
    if (format !== null) yield `backing file format: ${foreign(format)}\n`;
  }
  if (details.snapshots.length > 0) yield snapshotTable(details.snapshots, foreign);
  yield `Format specific information:\n${tree(specificJson(details), 1, foreign)}`;
}

function isEncrypted({ details }: ImageDescription): boolean {
  return details !== null && details.encryption !== null;
}

function emptyToNothing(list: readonly Json[] | undefined): readonly Json[] | undefined {
  return list?.length === 0 ? undefined : list;
}

function snapshotJson(snapshot: SnapshotInfo): JsonObject {
  return {
    icount: snapshot.icount ?? undefined,
    'vm-clock-nsec': snapshot.vmClockNanoseconds % 1_000_000_000n,
    name: snapshot.name,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': snapshot.vmClockNanoseconds / 1_000_000_000n,
    id: snapshot.id,
    'vm-state-size': snapshot.vmStateSize,
  };
}

function specificJson(info: ImageInfo): JsonObject {
  const since3 = <T>(value: T): T | undefined => (info.version === 3 ? value : undefined);
  return {
    compat: info.version === 2 ? '0.10' : '1.1',
    'compression-type': info.compressionType,
    'lazy-refcounts': since3(info.lazyRefcounts),
    bitmaps: emptyToNothing(info.bitmaps.map(bitmapJson)),
    'refcount-bits': info.refcountBits,
    'data-file': info.dataFile?.name ?? undefined,
    encrypt: info.encryption === null ? undefined : encryptionJson(info.encryption),
    'data-file-raw': info.dataFile?.raw,
    corrupt: since3(info.corrupt),
    'extended-l2': since3(info.extendedL2),
  };
}

function bitmapJson({ name, granularity, flags }: BitmapInfo): JsonObject {
  return { flags, name, granularity };
}

function encryptionJson(encryption: EncryptionInfo): JsonObject {
  if (encryption.format === 'aes') return { format: 'aes' };
  return {
    'ivgen-alg': encryption.ivgenAlg,
    'hash-alg': encryption.hashAlg,
    'cipher-alg': encryption.cipherAlg,
    uuid: encryption.uuid,
    'ivgen-hash-alg': encryption.ivgenHashAlg ?? undefined,
    format: 'luks',
    'cipher-mode': encryption.cipherMode,
    slots: encryption.slots.map(slotJson),
    'payload-offset': encryption.payloadOffset,
    'master-key-iters': encryption.masterKeyIterations,
  };
}

function slotJson({ active, iterations, keyOffset, stripes }: KeySlotInfo): JsonObject {
  if (!active) return { active, 'key-offset': keyOffset };
  return { active, iters: iterations, 'key-offset': keyOffset, stripes };
}

/** The members of an object as an indented outline. */
function tree(object: JsonObject, depth: number, foreign: (text: string) => string): string {
  return members(object)
    .map(([name, value]) => branch(name.replaceAll('-', ' '), value, depth, foreign))
    .join('');
}

function branch(label: string, value: Json, depth: number, foreign: (text: string) => string): string {
  const heading = `${'    '.repeat(depth)}${label}:`;
  if (typeof value !== 'object') return `${heading} ${foreign(String(value))}\n`;
  if (!isList(value)) return `${heading}\n${tree(value, depth + 1, foreign)}`;
  return `${heading}\n${value.map((item, index) => branch(`[${index}]`, item, depth + 1, foreign)).join('')}`;
}
