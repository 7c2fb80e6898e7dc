/** Laying out the first cluster: header, extensions, backing file name, one directly behind the other. */
import { Qcow2Error } from '../errors.js';
import { encodeExtensions, type HeaderExtension } from './header-extensions.js';
import { encodeField, headerFields } from './header-fields.js';
import { encodeHeader, type Header, type HeaderValues } from './header.js';
import { encodeName } from './text.js';

export interface FirstCluster {
  /** Where the backing file name goes, is found by laying out. */
  readonly fields: Omit<HeaderValues, 'backingFileOffset' | 'backingFileSize'>;
  readonly extensions: readonly HeaderExtension[];
  /** As text or as the bytes an image has. */
  readonly backingFile: string | Uint8Array | null;
}

/**
 * The first cluster of a new image.
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when it does not fit
 */
export function layoutFirstCluster({ fields, extensions, backingFile }: FirstCluster): Uint8Array {
  const cluster = new Uint8Array(2 ** fields.clusterBits);
  cluster.set(encodeHeader({ ...fields, backingFileOffset: 0, backingFileSize: 0 }));
  const name = typeof backingFile === 'string' ? encodeName(backingFile) : backingFile;
  placeExtensions(cluster, fields.headerLength, extensions, name);
  return cluster;
}

/**
 * The first cluster of an existing image with other extensions, and another backing file name if one is given. All
 * header fields but backing_file_offset and backing_file_size stay as they are, known or not.
 * @param cluster the first cluster as it is now, whole
 * @throws Qcow2Error `ERR_QCOW2_LIMIT` when it does not fit
 */
export function replaceExtensions(
  cluster: Uint8Array,
  header: Header,
  extensions: readonly HeaderExtension[],
  backingFile: string | null = header.backingFile,
): Uint8Array {
  const changed = Uint8Array.from(cluster);
  // Nothing but extensions and the backing file name may be behind the header, so no one's data is lost.
  changed.fill(0, header.headerLength);
  placeExtensions(changed, header.headerLength, extensions, backingName(cluster, header, backingFile));
  return changed;
}

/** Bytes: a cluster is mostly zeros that do not change. */
const comparedAtOnce = 512;

/** The bytes from the first to the last difference and where they begin, or null when nothing differs. */
export function changedBytes(
  before: Uint8Array,
  after: Uint8Array,
): { offset: number; bytes: Uint8Array } | null {
  let [first, end] = [0, after.length];
  while (first < end && isSamePart(before, after, first, first + comparedAtOnce)) first += comparedAtOnce;
  while (first < end && before[first] === after[first]) first++;
  if (first >= end) return null;
  while (end - comparedAtOnce > first && isSamePart(before, after, end - comparedAtOnce, end))
    end -= comparedAtOnce;
  while (before[end - 1] === after[end - 1]) end--;
  return { offset: first, bytes: after.subarray(first, end) };
}

function isSamePart(before: Uint8Array, after: Uint8Array, from: number, to: number): boolean {
  return Buffer.compare(before.subarray(from, to), after.subarray(from, to)) === 0;
}

/** A name that does not change keeps its bytes, be they UTF-8 or not. */
function backingName(cluster: Uint8Array, header: Header, backingFile: string | null): Uint8Array | null {
  if (backingFile === null) return null;
  if (backingFile !== header.backingFile) return encodeName(backingFile);
  return cluster.slice(header.backingFileOffset, header.backingFileOffset + header.backingFileSize);
}

function placeExtensions(
  cluster: Uint8Array,
  headerLength: number,
  extensions: readonly HeaderExtension[],
  name: Uint8Array | null,
): void {
  const area = encodeExtensions(extensions);
  const nameAt = headerLength + area.length;
  const end = nameAt + (name?.length ?? 0);
  if (end > cluster.length) {
    throw new Qcow2Error(
      'ERR_QCOW2_LIMIT',
      `header, extensions and backing file name take ${end} bytes, but the first cluster has ${cluster.length}: ` +
        'use a shorter name or larger clusters',
      { feature: 'backing_file_size' },
    );
  }
  cluster.set(area, headerLength);
  if (name !== null) cluster.set(name, nameAt);
  patch(cluster, 'backingFileOffset', name === null ? 0 : nameAt);
  patch(cluster, 'backingFileSize', name?.length ?? 0);
}

function patch(cluster: Uint8Array, field: 'backingFileOffset' | 'backingFileSize', value: number): void {
  cluster.set(encodeField(field, value), headerFields[field].offset);
}
