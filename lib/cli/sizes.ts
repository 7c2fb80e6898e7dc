/** Sizes as people write and read them: `1.5G` to bytes, bytes to `1.5 GiB`. */
import { Failure } from './failure.js';
import { threeDigits } from './rounding.js';

/** What a text that is no usable size suffers from. */
export type SizeTrouble = 'malformed' | 'too-large';

const suffixes = 'bkmgtpe';
export const maxUint64 = 2n ** 64n - 1n;
const maxInt64 = 2n ** 63n - 1n;

/**
 * Reads a size: decimal with an optional fraction, or hexadecimal, and an optional suffix b, k, M, G, T, P or E (powers of
 * 1024). A fraction of a byte makes no sense and is refused; others are rounded to bytes.
 */
export function parseSize(text: string): bigint | SizeTrouble {
  const match = /^[ \t\n\v\f\r]*\+?(?:0[xX]([0-9a-fA-F]+)|(\d+)(\.\d*)?)([a-zA-Z])?$/.exec(text);
  if (match === null) return 'malformed';
  const [, hexadecimal, whole = '', fraction = '', suffix = 'b'] = match;
  const power = suffixes.indexOf(suffix.toLowerCase());
  if (power < 0) return 'malformed';
  const unit = 1024n ** BigInt(power);
  const bytes =
    hexadecimal === undefined ? decimalBytes(whole, fraction, unit) : BigInt(`0x${hexadecimal}`) * unit;
  if (bytes === null) return 'malformed';
  return bytes > maxUint64 ? 'too-large' : bytes;
}

function decimalBytes(whole: string, fraction: string, unit: bigint): bigint | null {
  const part = fraction.length > 1 ? Number(`0${fraction}`) : 0;
  if (part > 0 && unit === 1n) return null;
  // So many nines that they round to 1 are worth nothing to qemu-img.
  const rounded = part < 1 ? BigInt(Math.floor(part * Number(unit) + 0.5)) : 0n;
  return BigInt(whole) * unit + rounded;
}

/**
 * Reads a size, in bytes, given as an argument or an option of its own.
 * @param what what the size is of, for the message: `image size`
 * @throws Failure in the words of qemu-img
 */
export function sizeArgument(what: string, text: string): bigint {
  const size = parseSize(text);
  if (size === 'malformed') {
    throw new Failure([
      `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for`,
      'kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.',
    ]);
  }
  if (size === 'too-large' || size > maxInt64) {
    throw new Failure(`Invalid ${what} specified. Must be between 0 and ${String(maxInt64)}.`);
  }
  return size;
}

/**
 * Reads a size, in bytes, given as a value of an option list (`-o cluster_size=...`).
 * @throws Failure in the words of qemu-img
 */
export function sizeParameter(name: string, text: string): bigint {
  const size = parseSize(text);
  if (size === 'malformed') {
    throw new Failure(`Parameter '${name}' expects a non-negative number below 2^64`, {
      hint: [
        'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-',
        'and exabytes, respectively.',
      ],
    });
  }
  if (size === 'too-large') throw new Failure(`Value '${text}' is out of range for parameter '${name}'`);
  return size;
}

const sectorSize = 512;

/** QEMU counts disks in whole sectors: a size, bytes, is rounded up. */
export function wholeSectors(bytes: number): number {
  return Math.ceil(bytes / sectorSize) * sectorSize;
}

const units = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];

/** Bytes with three significant digits: `196 KiB`, `1.95 GiB`. From 1000 of a unit on, the next unit is used. */
export function humanSize(bytes: number): string {
  let unit = 0;
  while (bytes >= 1000 * 1024 ** unit && unit < units.length - 1) unit += 1;
  return `${threeDigits(bytes / 1024 ** unit)} ${units[unit] ?? ''}B`;
}
