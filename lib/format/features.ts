/** The feature bits of the header, how to test and set them, and the table that names them inside an image. */
import { Qcow2Error } from '../errors.js';

/** The three feature fields, in the order in which the feature name table numbers them. */
export const featureKinds = ['incompatible', 'compatible', 'autoclear'] as const;
export type FeatureKind = (typeof featureKinds)[number];

/** The feature fields of a header: 64 bits each, those that are not known among them. */
export interface FeatureFields {
  /** Bits without whose meaning the image must not be opened. */
  readonly incompatible: bigint;
  /** Bits that may be ignored. */
  readonly compatible: bigint;
  /** Bits that whoever does not know them clears on writing. */
  readonly autoclear: bigint;
}

export interface Feature {
  readonly kind: FeatureKind;
  /** Bit number in its field, 0 to 63. */
  readonly bit: number;
  /** The name QEMU gives it in the feature name table. */
  readonly name: string;
}

/** Every feature of the specification, in the order of QEMU's feature name table. */
export const features = {
  dirty: { kind: 'incompatible', bit: 0, name: 'dirty bit' },
  corrupt: { kind: 'incompatible', bit: 1, name: 'corrupt bit' },
  externalData: { kind: 'incompatible', bit: 2, name: 'external data file' },
  compressionType: { kind: 'incompatible', bit: 3, name: 'compression type' },
  extendedL2: { kind: 'incompatible', bit: 4, name: 'extended L2 entries' },
  lazyRefcounts: { kind: 'compatible', bit: 0, name: 'lazy refcounts' },
  bitmaps: { kind: 'autoclear', bit: 0, name: 'bitmaps' },
  rawExternal: { kind: 'autoclear', bit: 1, name: 'raw external data' },
} as const satisfies Record<string, Feature>;
export type FeatureName = keyof typeof features;

export const noFeatures: FeatureFields = { incompatible: 0n, compatible: 0n, autoclear: 0n };

const maskOf = (feature: Feature): bigint => 1n << BigInt(feature.bit);
/** Made once: every write asks for some of them. */
const masks = Object.fromEntries(
  Object.entries(features).map(([name, feature]) => [name, maskOf(feature)]),
) as Record<FeatureName, bigint>;

export function hasFeature(fields: FeatureFields, name: FeatureName): boolean {
  return (fields[features[name].kind] & masks[name]) !== 0n;
}

/** The feature fields with one bit set or cleared; every other bit, known or not, stays. */
export function withFeature(fields: FeatureFields, name: FeatureName, on: boolean): FeatureFields {
  const { kind } = features[name];
  const mask = maskOf(features[name]);
  return { ...fields, [kind]: on ? fields[kind] | mask : fields[kind] & ~mask };
}

/** The bits of one field that this package knows. */
export function knownBits(kind: FeatureKind): bigint {
  return Object.values(features)
    .filter((feature) => feature.kind === kind)
    .reduce((bits, feature) => bits | maskOf(feature), 0n);
}

const nameTableEntrySize = 48;
const maxNameBytes = nameTableEntrySize - 2;

/** The data of a feature name table extension. */
export function encodeFeatureNameTable(entries: readonly Feature[] = Object.values(features)): Uint8Array {
  const table = new Uint8Array(entries.length * nameTableEntrySize);
  entries.forEach((entry, index) => {
    const at = index * nameTableEntrySize;
    table[at] = featureKinds.indexOf(entry.kind);
    table[at + 1] = entry.bit;
    table.set(new TextEncoder().encode(entry.name).subarray(0, maxNameBytes), at + 2);
  });
  return table;
}

/**
 * Reads a feature name table. Names come from the image: whatever is not printable ASCII in them is made visible as
 * `\xHH`. Entries of unknown kind or bit number and a cut-off last entry mean nothing to anyone and are left out.
 */
export function decodeFeatureNameTable(data: Uint8Array): Feature[] {
  const entries: Feature[] = [];
  for (let at = 0; at + nameTableEntrySize <= data.length; at += nameTableEntrySize) {
    const kind = featureKinds[data[at] ?? -1];
    const bit = data[at + 1] ?? -1;
    if (kind === undefined || bit > 63) continue;
    entries.push({ kind, bit, name: visible(data.subarray(at + 2, at + nameTableEntrySize)) });
  }
  return entries;
}

/** Refuses incompatible bits that are not in the specification, naming them from the image's own table. */
export function refuseUnknownFeatures(
  incompatible: bigint,
  names: readonly Feature[],
  fieldOffset: number,
): void {
  const unknown = bitNumbers(incompatible & ~knownBits('incompatible'));
  if (unknown.length === 0) return;
  const named = unknown.map((bit) => {
    const entry = names.find((feature) => feature.kind === 'incompatible' && feature.bit === bit);
    return entry === undefined || entry.name === '' ? `bit ${bit}` : `"${entry.name}" (bit ${bit})`;
  });
  throw new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `incompatible_features (byte ${fieldOffset}) needs what this package does not know: ${named.join(', ')}. ` +
      'Use a newer version of the package, or of the program that made the image to convert it',
    { offset: fieldOffset, feature: 'incompatible_features' },
  );
}

function bitNumbers(bits: bigint): number[] {
  return Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => ((bits >> BigInt(bit)) & 1n) === 1n);
}

/** Bytes up to the first NUL, with everything that a terminal might act on escaped. */
function visible(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Array.from(end < 0 ? bytes : bytes.subarray(0, end), (byte) =>
    byte >= 0x20 && byte < 0x7f && byte !== 0x5c && byte !== 0x22
      ? String.fromCharCode(byte)
      : `\\x${byte.toString(16).padStart(2, '0')}`,
  ).join('');
}
