/** What `map` prints: runs of a disk, for people and as JSON. */
import type { Extent } from '../disk.js';
import { Failure } from './failure.js';

/** A run as qemu-img tells it. */
export interface MapEntry {
  start: number;
  length: number;
  depth: number;
  /** Some layer has a say about the range. */
  present: boolean;
  zero: boolean;
  data: boolean;
  /** Where the bytes are in their file, or null. */
  offset: number | null;
}

const kinds = {
  data: { present: true, zero: false, data: true },
  compressed: { present: true, zero: false, data: true },
  zero: { present: true, zero: true, data: false },
  unallocated: { present: false, zero: true, data: false },
} as const;

/** Turns extents into entries, merging neighbours that qemu-img does not tell apart. */
export async function* mapEntries(lists: AsyncIterable<readonly Extent[]>): AsyncGenerator<MapEntry[]> {
  let last: MapEntry | null = null;
  for await (const extents of lists) {
    const entries: MapEntry[] = [];
    for (const { start, length, depth, type, hostOffset } of extents) {
      const { present, zero, data } = kinds[type];
      const entry = { start, length, depth, present, zero, data, offset: hostOffset };
      if (last !== null && goesOn(last, entry)) {
        last.length += entry.length;
        continue;
      }
      if (last !== null) entries.push(last);
      last = entry;
    }
    yield entries;
  }
  if (last !== null) yield [last];
}

function goesOn(last: MapEntry, next: MapEntry): boolean {
  return (
    last.depth === next.depth &&
    last.present === next.present &&
    last.zero === next.zero &&
    last.data === next.data &&
    (last.offset === null ? next.offset === null : next.offset === last.offset + last.length)
  );
}

/** What qemu-img says of an empty range. */
export function emptyEntry(start: number): MapEntry {
  return { start, length: 0, depth: 0, present: false, zero: false, data: false, offset: null };
}

/** One entry of the JSON list, without the brackets and commas around it. */
export function mapJson(entry: MapEntry): string {
  const offset = entry.offset === null ? '' : `, "offset": ${entry.offset}`;
  return (
    `{ "start": ${entry.start}, "length": ${entry.length}, "depth": ${entry.depth}, ` +
    `"present": ${String(entry.present)}, "zero": ${String(entry.zero)}, "data": ${String(entry.data)}${offset}}`
  );
}

export const mapHeading = `${['Offset', 'Length', 'Mapped to'].map((title) => title.padEnd(16)).join('')}File\n`;

/**
 * The line for people, or nothing for a range that holds no data.
 * @throws Failure for data that is not in a file as it is
 */
export function mapText(entry: MapEntry, fileName: (depth: number) => string): string {
  if (!entry.data || entry.zero) return '';
  if (entry.offset === null) {
    throw new Failure('File contains external, encrypted or compressed clusters.');
  }
  const numbers = [entry.start, entry.length, entry.offset].map((value) => hex(value).padEnd(16)).join('');
  return `${numbers}${fileName(entry.depth)}\n`;
}

const hex = (value: number): string => (value === 0 ? '0' : `0x${value.toString(16)}`);
