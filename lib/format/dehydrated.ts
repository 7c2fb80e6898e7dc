/**
 * The container of a dehydrated image: what is left of an image file without the guest's data, as pieces with their places.
 * docs/dehydrated.md is its specification.
 */
import { Qcow2Error } from '../errors.js';

/** What a container begins with; all that follows is one gzip stream. */
const dehydratedMagic = Buffer.from('QCOW2DRY', 'latin1');
const dehydratedVersion = 1;
/** Magic, version, and four bytes that are 0. */
export const dehydratedHeadSize = 16;
/** Offset and length before the bytes of a piece. */
export const pieceHeadSize = 12;
/** The largest cluster. */
export const maxPieceBytes = 2 * 1024 * 1024;
/** The offset that stands for the end of the pieces. */
const endOffset = 0xffff_ffff_ffff_ffffn;

/** Bytes of the image file and where they are. */
export interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export function encodeDehydratedHead(): Uint8Array {
  const head = Buffer.alloc(dehydratedHeadSize);
  dehydratedMagic.copy(head);
  head.writeUInt32BE(dehydratedVersion, dehydratedMagic.length);
  return head;
}

/** @throws Qcow2Error `ERR_QCOW2_CORRUPT` for what is no container, `ERR_QCOW2_UNSUPPORTED` for a later version */
export function checkDehydratedHead(head: Uint8Array): void {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  if (
    bytes.length < dehydratedHeadSize ||
    !bytes.subarray(0, dehydratedMagic.length).equals(dehydratedMagic)
  ) {
    throw damagedContainer('it does not begin with the magic of a dehydrated image');
  }
  const version = bytes.readUInt32BE(dehydratedMagic.length);
  if (version === dehydratedVersion && bytes.readUInt32BE(dehydratedMagic.length + 4) === 0) return;
  throw new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The dehydrated image has version ${version}, or flags, that this package does not know; it knows version ${dehydratedVersion}`,
    { feature: 'dehydrated image' },
  );
}

/** What the gzip stream begins with: the length of the image file. */
export function encodeFileSize(size: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(size));
  return bytes;
}

export function encodePieceHead(offset: number, length: number): Uint8Array {
  const head = Buffer.alloc(pieceHeadSize);
  head.writeBigUInt64BE(BigInt(offset));
  head.writeUInt32BE(length, 8);
  return head;
}

/** What stands behind the last piece; `total` is the sum of all lengths, modulo 2^32. */
export function encodeEnd(total: number): Uint8Array {
  const head = Buffer.alloc(pieceHeadSize);
  head.writeBigUInt64BE(endOffset);
  head.writeUInt32BE(total % 2 ** 32, 8);
  return head;
}

/** A piece's place, or `null` for the offset of the end. */
export function decodePieceHead(head: Buffer): { offset: number | null; length: number } {
  const offset = head.readBigUInt64BE(0);
  return { offset: offset === endOffset ? null : Number(offset), length: head.readUInt32BE(8) };
}

export const damagedContainer = (finding: string): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CORRUPT', `This is no dehydrated image, or a damaged one: ${finding}`, {
    feature: 'dehydrated image',
  });
