/** Branded numbers, so that a guest offset cannot be passed where a host offset belongs, and argument conversion. */
import { invalidArgType, outOfRange } from '../errors.js';

declare const brand: unique symbol;
type Branded<Name extends string> = number & { readonly [brand]: Name };

/** A byte position on the virtual disk. */
export type GuestOffset = Branded<'GuestOffset'>;
/** A byte position in the image file (or in the external data file). */
export type HostOffset = Branded<'HostOffset'>;
/** A host offset divided by the cluster size. */
export type HostCluster = Branded<'HostCluster'>;

export const guestOffset = (value: number): GuestOffset => value as GuestOffset;
export const hostOffset = (value: number): HostOffset => value as HostOffset;
export const hostCluster = (value: number): HostCluster => value as HostCluster;

/** The smallest multiple of `unit` that is not below `value`. */
export const alignUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;
/** The largest multiple of `unit` that is not above `value`. */
export const alignDown = (value: number, unit: number): number => value - (value % unit);

/**
 * Converts a public size or offset argument, in bytes, to a safe non-negative integer.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, RangeError `ERR_OUT_OF_RANGE`
 */
export function toBytes(name: string, value: number | bigint): number {
  if (typeof value !== 'number' && typeof value !== 'bigint') {
    throw invalidArgType(name, 'of type number or bigint', value);
  }
  const bytes = Number(value);
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw outOfRange(name, `an integer from 0 to ${Number.MAX_SAFE_INTEGER}`, value);
  }
  return bytes;
}
