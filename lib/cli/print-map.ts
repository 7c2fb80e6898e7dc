/** What `map` prints: runs of a disk, for people and as JSON. */
import { ExtentColumn, extentStride, ExtentTypeIndex, MergedRows } from '../io/extent-rows.js';
import { maxExtentJson, native } from '../native.js';
import { Failure } from './failure.js';

/** Extents whose text is made at once. */
const rowsAtOnce = 4096;

/** Merges neighbours that qemu-img does not tell apart. The rows of each part are merged but for compressed ones. */
export async function* mapRows(parts: AsyncIterable<Float64Array>): AsyncGenerator<Float64Array> {
  const merged = new MergedRows();
  for await (const rows of parts) {
    if (hasCompressed(rows)) {
      addRows(merged, rows);
      yield merged.take();
      continue;
    }
    // Only the first and the last can go on over the borders of parts.
    const second = Math.min(extentStride, rows.length);
    const last = Math.max(second, rows.length - extentStride);
    addRows(merged, rows.subarray(0, second));
    if (last > second) {
      yield merged.takeAll();
      yield rows.subarray(second, last);
    }
    addRows(merged, rows.subarray(last));
    yield merged.take();
  }
  yield merged.takeAll();
}

function hasCompressed(rows: Float64Array): boolean {
  for (let i: number = ExtentColumn.type; i < rows.length; i += extentStride) {
    if (rows[i] === ExtentTypeIndex.compressed) return true;
  }
  return false;
}

function addRows(merged: MergedRows, rows: Float64Array): void {
  for (let i = 0; i < rows.length; i += extentStride) {
    const [start = 0, length = 0, type = 0, depth = 0, offset = -1] = rows.subarray(i, i + extentStride);
    const shown = type === ExtentTypeIndex.compressed ? ExtentTypeIndex.data : type;
    merged.add(start, length, shown, depth, offset);
  }
}

/** The beginning of the JSON list for an empty range, as qemu-img has it: one entry that is nothing. */
export const emptyMapJson = (start: number): string =>
  `[{ "start": ${start}, "length": 0, "depth": 0, "present": false, "zero": false, "data": false}`;

/** Zeros that are in no file, and yet told with a place. */
export const zeroRow = (start: number, length: number): Float64Array =>
  Float64Array.of(start, length, ExtentTypeIndex.zero, 0, start);

/** Memory for texts, made when first needed. */
let textBuffer: Buffer | undefined;
const comma = ',\n'.length;
const bracket = Buffer.from('[');

/** Entries of the JSON list, each piece of which is valid until the next; the first begins the list. */
export function* mapJson(rows: Float64Array, isFirst: boolean): Generator<Uint8Array> {
  if (isFirst && rows.length > 0) yield bracket;
  textBuffer ??= Buffer.allocUnsafe(rowsAtOnce * maxExtentJson);
  const step = rowsAtOnce * extentStride;
  for (let at = 0; at < rows.length; at += step) {
    const length = native.extentJson(rows.subarray(at, at + step), textBuffer);
    yield textBuffer.subarray(isFirst && at === 0 ? comma : 0, length);
  }
}

export const mapHeading = `${['Offset', 'Length', 'Mapped to'].map((title) => title.padEnd(16)).join('')}File\n`;

/**
 * Prints the lines for people; a range that holds no data has none.
 * @throws Failure for data that is not in a file as it is
 */
export function mapText(
  rows: Float64Array,
  fileName: (depth: number) => string,
  print: (line: string) => void,
): void {
  for (let at = 0; at < rows.length; at += extentStride) {
    const [start = 0, length = 0, type, depth = 0, offset = -1] = rows.subarray(at, at + extentStride);
    if (type !== ExtentTypeIndex.data) continue;
    if (offset < 0) throw new Failure('File contains external, encrypted or compressed clusters.');
    const numbers = [start, length, offset].map((value) => hex(value).padEnd(16)).join('');
    print(`${numbers}${fileName(depth)}\n`);
  }
}

const hex = (value: number): string => (value === 0 ? '0' : `0x${value.toString(16)}`);
