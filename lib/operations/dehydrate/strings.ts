/** What leaves an image of its header, its snapshot table, its bitmap directory and its LUKS header: no names, no keys. */
import { encodeBitmapDirectory, type BitmapEntry } from '../../format/bitmap-directory.js';
import { extensionTypes } from '../../format/header-extensions.js';
import type { Header } from '../../format/header.js';
import { headerFields, headerLengthV2 } from '../../format/header-fields.js';
import { encodeLuksHeader, maxLuksAreaBytes, parseLuksHeader } from '../../format/luks.js';
import { encodeSnapshotTable, fullExtraDataSize, type SnapshotEntry } from '../../format/snapshot-table.js';
import { decodeName, encodeName } from '../../format/text.js';

/** Extensions whose data is numbers. */
const kept: readonly number[] = [extensionTypes.encryption, extensionTypes.bitmaps];
const formatNames = ['qcow2', 'raw'];
const extensionHeaderSize = 8;

/**
 * The first cluster with nothing but the known fields, the extensions at their places, and the backing file name.
 * @param strings whether the names in it may leave
 */
export function cleanFirstCluster(cluster: Uint8Array, header: Header, strings: boolean): Uint8Array {
  const clean = new Uint8Array(cluster.length);
  const knownEnd = headerFields.compressionType.offset + headerFields.compressionType.size;
  const fieldsEnd = header.version === 2 ? headerLengthV2 : Math.min(header.headerLength, knownEnd);
  clean.set(cluster.subarray(0, fieldsEnd));
  for (const { type, offset, data } of header.extensions) {
    clean.set(cluster.subarray(offset - extensionHeaderSize, offset), offset - extensionHeaderSize);
    clean.set(cleanExtension(type, data, strings), offset);
  }
  const { backingFileOffset: at, backingFileSize: length, backingFile } = header;
  if (backingFile !== null) clean.set(strings ? cluster.subarray(at, at + length) : blank(length), at);
  return clean;
}

function cleanExtension(type: number, data: Uint8Array, strings: boolean): Uint8Array {
  if (kept.includes(type)) return data;
  const isName = type === extensionTypes.backingFormat || type === extensionTypes.dataFile;
  if (type === extensionTypes.backingFormat && formatNames.includes(decodeName(data))) return data;
  if (strings && (isName || type === extensionTypes.featureNames)) return data;
  // Whatever an unknown extension holds.
  return isName ? blank(data.length) : new Uint8Array(data.length);
}

/** The snapshot table without names; ids that are numbers stay. */
export function cleanSnapshotTable(entries: readonly SnapshotEntry[], strings: boolean): Uint8Array {
  return encodeSnapshotTable(
    entries.map((entry, index) => ({
      ...entry,
      idBytes: strings || /^\d+$/.test(entry.id) ? entry.idBytes : distinct(index, entry.idBytes.length),
      nameBytes: strings ? entry.nameBytes : blank(entry.nameBytes.length),
      // The known fields are written over what is kept here.
      extraData: entry.extraData.map((byte, i) => (i < fullExtraDataSize ? byte : 0)),
    })),
  );
}

/** The bitmap directory with names that tell nothing but which is which. */
export function cleanBitmapDirectory(entries: readonly BitmapEntry[], strings: boolean): Uint8Array {
  return encodeBitmapDirectory(
    entries.map((entry, index) => ({
      ...entry,
      nameBytes: strings ? entry.nameBytes : distinct(index, entry.nameBytes.length),
      extraData: new Uint8Array(entry.extraData.length),
    })),
  );
}

/**
 * The LUKS header without salts, digest and id. What was encrypted under it cannot be opened with this one.
 * @param areaLength bytes that it and the key material have in the image
 */
export function cleanLuksHeader(bytes: Uint8Array, areaLength: number): Uint8Array {
  const area = new Uint8Array(Math.min(areaLength, maxLuksAreaBytes));
  area.set(bytes.subarray(0, area.length));
  const header = parseLuksHeader(area);
  return encodeLuksHeader({
    ...header,
    masterKeyDigest: new Uint8Array(header.masterKeyDigest.length),
    masterKeySalt: new Uint8Array(header.masterKeySalt.length),
    uuid: '00000000-0000-0000-0000-000000000000',
    slots: header.slots.map((slot) => ({ ...slot, salt: new Uint8Array(slot.salt.length) })),
  });
}

/** A name as long as another. */
const blank = (length: number): Uint8Array => new Uint8Array(length).fill(0x78);

/** A name as long as another, and no other's: the number in base 36 behind as many `x` as fit. */
function distinct(index: number, length: number): Uint8Array {
  const digits = encodeName(index.toString(36));
  const name = blank(length);
  if (digits.length <= length) name.set(digits, length - digits.length);
  else name.fill(index & 0xff);
  return name;
}
