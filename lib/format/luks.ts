/** The LUKS1 partition header that leads the encryption area of an image: 592 bytes <-> one typed record. */
import { Qcow2Error } from '../errors.js';
import { alignUp } from './units.js';

/** Unit of the offsets that the header stores, and of encryption, bytes. */
export const luksSectorSize = 512;
/** Bytes of the partition header; key material follows at the places it names. */
export const luksHeaderSize = 592;
export const luksSlotCount = 8;
/** Anti-forensic stripes of key material in each slot; LUKS1 knows no other number in practice. */
export const luksStripes = 4000;
/** Bytes of the digest that recognizes the right master key. */
export const luksDigestSize = 20;
export const luksSaltSize = 32;
/** The longest master key: two AES-256 keys, for XTS. */
export const maxLuksKeyBytes = 64;
/** No LUKS1 area needs more (QEMU writes at most 2 MiB): a ceiling for whoever reads one into memory, bytes. */
export const maxLuksAreaBytes = 16 * 1024 * 1024;

const magic = Buffer.from('LUKS\xba\xbe', 'latin1');
const version = 1;
const slotActive = 0x00ac71f3;
const slotInactive = 0x0000dead;
const firstSlotOffset = 208;
const slotSize = 48;

/** Where each field lies: its byte offset and, for bytes and text, its length. */
const field = {
  version: 6,
  cipherName: { at: 8, size: 32 },
  cipherMode: { at: 40, size: 32 },
  hashSpec: { at: 72, size: 32 },
  payloadOffset: 104,
  keyBytes: 108,
  digest: { at: 112, size: luksDigestSize },
  digestSalt: { at: 132, size: luksSaltSize },
  digestIterations: 164,
  uuid: { at: 168, size: 40 },
} as const;
const slotField = { state: 0, iterations: 4, salt: 8, keyMaterialOffset: 40, stripes: 44 } as const;

/** One of the eight places that can hold the master key, each under a secret of its own. */
export interface LuksKeySlot {
  active: boolean;
  /** PBKDF2 iterations from the secret to the key of this slot; 0 in an inactive slot. */
  iterations: number;
  /** 32 bytes. */
  salt: Uint8Array;
  /** Where the key material begins, bytes from the start of the LUKS header; a multiple of 512. */
  keyMaterialOffset: number;
  stripes: number;
}

export interface LuksHeader {
  /** Such as `aes`. */
  cipherName: string;
  /** Mode and IV generator, such as `xts-plain64`. */
  cipherMode: string;
  /** Hash of PBKDF2 and of the anti-forensic splitter, such as `sha256`. */
  hashSpec: string;
  /** Bytes from the start of the LUKS header; QCOW2 does not use it. */
  payloadOffset: number;
  /** Length of the master key, bytes. */
  keyBytes: number;
  /** 20 bytes. */
  masterKeyDigest: Uint8Array;
  /** 32 bytes. */
  masterKeySalt: Uint8Array;
  masterKeyIterations: number;
  uuid: string;
  /** Always eight. */
  slots: LuksKeySlot[];
}

/** Bytes a slot's key material occupies: every stripe is one master key, encrypted in whole sectors. */
export function keyMaterialBytes(keyBytes: number): number {
  return alignUp(keyBytes * luksStripes, luksSectorSize);
}

/** Where the record of key slot `index` lies, bytes from the start of the LUKS header. */
export function luksSlotOffset(index: number): number {
  return firstSlotOffset + index * slotSize;
}

/**
 * Reads the partition header at the start of an encryption area and checks every field that steers what is read next.
 * @param area all bytes of the area, as long as the full disk encryption header extension says; what is returned are copies
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT`, or `ERR_QCOW2_UNSUPPORTED` for another LUKS version
 */
export function parseLuksHeader(area: Uint8Array): LuksHeader {
  if (area.length < luksHeaderSize) {
    throw corrupt(`it has ${area.length} bytes where ${luksHeaderSize} are needed`);
  }
  const bytes = Buffer.from(area.buffer, area.byteOffset, area.byteLength);
  checkMagicAndVersion(bytes);
  const header: LuksHeader = {
    cipherName: name(bytes, field.cipherName, 'cipher-name'),
    cipherMode: name(bytes, field.cipherMode, 'cipher-mode'),
    hashSpec: name(bytes, field.hashSpec, 'hash-spec'),
    payloadOffset: bytes.readUInt32BE(field.payloadOffset) * luksSectorSize,
    keyBytes: bytes.readUInt32BE(field.keyBytes),
    masterKeyDigest: copy(bytes, field.digest),
    masterKeySalt: copy(bytes, field.digestSalt),
    masterKeyIterations: bytes.readUInt32BE(field.digestIterations),
    uuid: printable(text(bytes, field.uuid)),
    slots: Array.from({ length: luksSlotCount }, (_, index) => parseSlot(bytes, index)),
  };
  if (header.keyBytes === 0 || header.keyBytes > maxLuksKeyBytes) {
    throw corrupt(`key-bytes at byte ${field.keyBytes} is ${header.keyBytes}, not 1 to ${maxLuksKeyBytes}`);
  }
  if (header.masterKeyIterations === 0)
    throw corrupt(`mk-digest-iter at byte ${field.digestIterations} is 0`);
  checkKeyMaterial(header, area.length);
  return header;
}

/** The 592 bytes of a partition header. */
export function encodeLuksHeader(header: LuksHeader): Uint8Array {
  const bytes = Buffer.alloc(luksHeaderSize);
  magic.copy(bytes);
  bytes.writeUInt16BE(version, field.version);
  bytes.write(header.cipherName, field.cipherName.at, field.cipherName.size - 1, 'latin1');
  bytes.write(header.cipherMode, field.cipherMode.at, field.cipherMode.size - 1, 'latin1');
  bytes.write(header.hashSpec, field.hashSpec.at, field.hashSpec.size - 1, 'latin1');
  bytes.writeUInt32BE(header.payloadOffset / luksSectorSize, field.payloadOffset);
  bytes.writeUInt32BE(header.keyBytes, field.keyBytes);
  bytes.set(header.masterKeyDigest, field.digest.at);
  bytes.set(header.masterKeySalt, field.digestSalt.at);
  bytes.writeUInt32BE(header.masterKeyIterations, field.digestIterations);
  bytes.write(header.uuid, field.uuid.at, field.uuid.size - 1, 'latin1');
  header.slots.forEach((slot, index) => bytes.set(encodeLuksSlot(slot), luksSlotOffset(index)));
  return bytes;
}

/** The 48 bytes of one key slot's record, which belong at {@link luksSlotOffset}. */
export function encodeLuksSlot(slot: LuksKeySlot): Uint8Array {
  const bytes = Buffer.alloc(slotSize);
  bytes.writeUInt32BE(slot.active ? slotActive : slotInactive, slotField.state);
  bytes.writeUInt32BE(slot.iterations, slotField.iterations);
  bytes.set(slot.salt, slotField.salt);
  bytes.writeUInt32BE(slot.keyMaterialOffset / luksSectorSize, slotField.keyMaterialOffset);
  bytes.writeUInt32BE(slot.stripes, slotField.stripes);
  return bytes;
}

function checkMagicAndVersion(bytes: Buffer): void {
  if (!bytes.subarray(0, magic.length).equals(magic)) {
    throw corrupt(
      'it does not begin with the LUKS magic; the full disk encryption header pointer may be wrong',
    );
  }
  const found = bytes.readUInt16BE(field.version);
  if (found !== version) {
    throw new Qcow2Error(
      'ERR_QCOW2_UNSUPPORTED',
      `LUKS version ${found} is not supported, only version 1 is`,
      {
        feature: `LUKS version ${found}`,
      },
    );
  }
}

function parseSlot(bytes: Buffer, index: number): LuksKeySlot {
  const at = luksSlotOffset(index);
  const state = bytes.readUInt32BE(at + slotField.state);
  const slot: LuksKeySlot = {
    active: state === slotActive,
    iterations: bytes.readUInt32BE(at + slotField.iterations),
    salt: copy(bytes, { at: at + slotField.salt, size: luksSaltSize }),
    keyMaterialOffset: bytes.readUInt32BE(at + slotField.keyMaterialOffset) * luksSectorSize,
    stripes: bytes.readUInt32BE(at + slotField.stripes),
  };
  if (!slot.active && state !== slotInactive) {
    throw corrupt(`key slot ${index} at byte ${at} is neither active nor inactive (0x${state.toString(16)})`);
  }
  if (slot.active && slot.iterations === 0) throw corrupt(`key slot ${index} is active with 0 iterations`);
  if (slot.stripes !== luksStripes) {
    throw corrupt(`key slot ${index} has ${slot.stripes} stripes, not ${luksStripes}`);
  }
  return slot;
}

/** Inactive slots count as well: a key added to one must not land on the material of another. */
function checkKeyMaterial(header: LuksHeader, areaLength: number): void {
  const length = keyMaterialBytes(header.keyBytes);
  const placed = header.slots
    .map((slot, index) => ({ index, start: slot.keyMaterialOffset, end: slot.keyMaterialOffset + length }))
    .sort((a, b) => a.start - b.start);
  let last = { what: 'the partition header', end: luksHeaderSize };
  for (const { index, start, end } of placed) {
    if (start < last.end) {
      throw corrupt(`the key material of slot ${index} at byte ${start} overlaps ${last.what}`);
    }
    if (end > areaLength) {
      throw corrupt(
        `the key material of slot ${index} ends at byte ${end}, past the area's ${areaLength} bytes`,
      );
    }
    last = { what: `that of slot ${index}`, end };
  }
}

interface Span {
  readonly at: number;
  readonly size: number;
}

function copy(bytes: Buffer, { at, size }: Span): Uint8Array {
  return Uint8Array.from(bytes.subarray(at, at + size));
}

function text(bytes: Buffer, { at, size }: Span): string {
  const whole = bytes.toString('latin1', at, at + size);
  const end = whole.indexOf('\0');
  return end < 0 ? whole : whole.slice(0, end);
}

function name(bytes: Buffer, span: Span, what: string): string {
  const value = text(bytes, span);
  if (value.length === span.size) throw corrupt(`${what} at byte ${span.at} does not end with a zero byte`);
  if (value === '' || printable(value) !== value) {
    throw corrupt(`${what} at byte ${span.at} is ${value === '' ? 'empty' : 'no printable text'}`);
  }
  return value;
}

/** Text from an image may end up on a terminal. */
function printable(value: string): string {
  return value.replace(/[^\x20-\x7e]/g, '?');
}

function corrupt(what: string): Qcow2Error {
  return new Qcow2Error('ERR_QCOW2_CORRUPT', `The LUKS header is damaged: ${what}`, {
    feature: 'LUKS header',
  });
}
