/**
 * Changing header, header extensions and backing file name at once, by one write that no medium tears:
 *
 *   what the image does not use yet | one sector, usually the first, that switches to it | zeros over what it leaves
 *
 * (`|` is a barrier). The name goes where the old one is not. Where the list of extensions changes in several sectors, the
 * image first gets all of it further back, behind an extension that spans the old list (who does not know it skips it),
 * and then, the same way, at its place.
 *
 * A first cluster may have no room for that: it then has a few sectors, most of them full. What the image uses already is
 * overwritten in place there, by one write of several sectors. Only a crash that tears that write can leave a mixture, of
 * the old name and the new one for instance.
 */
import { changedBytes } from '../format/first-cluster.js';
import { encodeExtensions, type HeaderExtension } from '../format/header-extensions.js';
import {
  encodeField,
  headerFields,
  headerLengthV2,
  readField,
  readField64,
} from '../format/header-fields.js';
import type { Header } from '../format/header.js';
import { alignDown, alignUp } from '../format/units.js';
import type { Image } from './image.js';

/** What a medium writes as a whole. */
export const sectorSize = 512;
const extensionHeaderSize = 8;
/** "skip": its data is what is to be skipped. Only a crash leaves it in an image. */
const skipType = 0x736b6970;

/** The first cluster, and with 1 which of its bytes a reader looks at. */
interface Layout {
  readonly bytes: Uint8Array;
  readonly used: Uint8Array;
}

/** What is to be laid out. */
interface Parts {
  readonly header: Uint8Array;
  /** The encoded extensions. */
  readonly list: Uint8Array;
  /** Empty for none. */
  readonly name: Uint8Array;
}

/** The extensions of an image but those of the types given. */
export function otherExtensions({ extensions }: Header, ...types: readonly number[]): HeaderExtension[] {
  return extensions.filter(({ type }) => type !== skipType && !types.includes(type));
}

/**
 * Replaces the first cluster. Durable when it resolves. Nothing else may write to it meanwhile.
 * @param before the first cluster as it is
 * @param after as it is to be: header, extensions and name one directly behind the other
 * @param extensions those in `after`
 */
export async function switchFirstCluster(
  image: Image,
  before: Uint8Array,
  after: Uint8Array,
  extensions: readonly HeaderExtension[],
): Promise<void> {
  if (changedBytes(before, after) === null) return;
  const parts = partsOf(after, extensions);
  let current: Layout = { bytes: before, used: usedBytes(image.header, before.length) };
  let next = inPlace(current, parts);
  if (next === null) {
    const away = furtherBack(current, parts);
    if (away !== null) {
      await change(image, current, away);
      current = away;
      next = inPlace(current, parts);
    }
  }
  await change(image, current, next ?? { bytes: after, used: new Uint8Array(after.length).fill(1) });
}

function partsOf(cluster: Uint8Array, extensions: readonly HeaderExtension[]): Parts {
  const view = new DataView(cluster.buffer, cluster.byteOffset, cluster.byteLength);
  const headerLength = readField(view, 'version') === 2 ? headerLengthV2 : readField(view, 'headerLength');
  const nameAt = Number(readField64(view, 'backingFileOffset'));
  const nameEnd = nameAt === 0 ? 0 : nameAt + readField(view, 'backingFileSize');
  return {
    header: cluster.slice(0, headerLength),
    list: encodeExtensions(extensions),
    name: cluster.slice(nameAt, nameEnd),
  };
}

function usedBytes(header: Header, clusterSize: number): Uint8Array {
  const used = new Uint8Array(clusterSize).fill(1, 0, header.headerLength);
  let end: number = header.headerLength;
  for (const { type, offset, data } of header.extensions) {
    end = offset + alignUp(data.length, 8);
    used.fill(1, offset - extensionHeaderSize, type === skipType ? offset : end);
  }
  used.fill(1, end, end + extensionHeaderSize);
  const { backingFile, backingFileOffset, backingFileSize } = header;
  if (backingFile !== null) used.fill(1, backingFileOffset, backingFileOffset + backingFileSize);
  return used;
}

/** With the list directly behind the header, and the name where that makes it a switch of one sector; null for nowhere. */
function inPlace(current: Layout, parts: Parts): Layout | null {
  const { header, list, name } = parts;
  const listEnd = header.length + list.length;
  const places = [listEnd, findRoom(current.used, listEnd, name.length), findName(current, listEnd, name)];
  for (const place of places) {
    if (place === null || place + name.length > current.bytes.length) continue;
    const next = layout(parts, header.length, place, current.bytes.length);
    if (isSwitch(current, next)) return next;
  }
  return null;
}

/** With list and name where nothing is now, nor will be when the list is in its place; null without room. */
function furtherBack(current: Layout, parts: Parts): Layout | null {
  const { header, list, name } = parts;
  const from = Math.max(header.length + list.length, header.length + extensionHeaderSize);
  const place = findRoom(current.used, from, list.length + name.length);
  if (place === null) return null;
  const next = layout(parts, place, place + list.length, current.bytes.length);
  return isSwitch(current, next) ? next : null;
}

/** The first place from `from` on with so many bytes that are not used. */
function findRoom(used: Uint8Array, from: number, length: number): number | null {
  for (let at = alignUp(from, 8); at + length <= used.length;) {
    const last = used.subarray(at, at + length).lastIndexOf(1);
    if (last < 0) return at;
    at = alignUp(at + last + 1, 8);
  }
  return null;
}

/** Where the cluster has this name already, in the current place of its name. */
function findName({ bytes }: Layout, from: number, name: Uint8Array): number | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = Number(readField64(view, 'backingFileOffset'));
  const same = changedBytes(bytes.subarray(at, at + name.length), name) === null;
  return at >= from && at + name.length <= bytes.length && same ? at : null;
}

function layout({ header, list, name }: Parts, listAt: number, nameAt: number, clusterSize: number): Layout {
  const next = { bytes: new Uint8Array(clusterSize), used: new Uint8Array(clusterSize) };
  const put = (part: Uint8Array, offset: number): void => {
    next.bytes.set(part, offset);
    next.used.fill(1, offset, offset + part.length);
  };
  put(header, 0);
  put(
    encodeField('backingFileOffset', name.length === 0 ? 0 : nameAt),
    headerFields.backingFileOffset.offset,
  );
  if (listAt > header.length) {
    const skip = new DataView(new ArrayBuffer(extensionHeaderSize));
    skip.setUint32(0, skipType);
    skip.setUint32(4, listAt - header.length - extensionHeaderSize);
    put(new Uint8Array(skip.buffer), header.length);
  }
  put(list, listAt);
  put(name, nameAt);
  return next;
}

/** Whether one sector has all the bytes that are used now and will be others. */
function isSwitch(current: Layout, next: Layout): boolean {
  const { prepared, switched } = stepsBetween(current, next);
  const changed = changedBytes(prepared, switched);
  if (changed === null) return true;
  const last = changed.offset + changed.bytes.length - 1;
  return alignDown(changed.offset, sectorSize) === alignDown(last, sectorSize);
}

/** With what is used only afterwards; with all that is used afterwards. */
function stepsBetween(current: Layout, next: Layout): { prepared: Uint8Array; switched: Uint8Array } {
  const prepared = current.bytes.slice();
  const switched = current.bytes.slice();
  const changed = changedBytes(current.bytes, next.bytes);
  if (changed === null) return { prepared, switched };
  for (const [index, byte] of changed.bytes.entries()) {
    const i = changed.offset + index;
    if (next.used[i] === 0) continue;
    switched[i] = byte;
    if (current.used[i] === 0) prepared[i] = byte;
  }
  return { prepared, switched };
}

async function change({ storage, committer }: Image, current: Layout, next: Layout): Promise<void> {
  const { prepared, switched } = stepsBetween(current, next);
  let from = current.bytes;
  for (const to of [prepared, switched, next.bytes]) {
    const changed = changedBytes(from, to);
    from = to;
    if (changed === null) continue;
    await committer.barrier();
    await storage.write(changed.bytes, changed.offset);
  }
  await committer.barrier();
}
