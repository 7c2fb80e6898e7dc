/** Counting what the persistent bitmaps occupy: directory, tables, data. */
import { parseBitmapDirectory, type BitmapEntry } from '../../format/bitmap-directory.js';
import { tableEntrySize } from '../../format/geometry.js';
import {
  describeEntryProblem,
  EntryProblem,
  readBitmapTableEntry,
  tableLength,
  tableView,
} from '../../format/table-entry.js';
import { hex, quote } from '../../format/text.js';
import { pageBytes } from '../../storage/page-bytes.js';
import { readExactly } from '../../storage/storage.js';
import type { CheckContext } from './context.js';

const chunkBytes = 1024 * 1024;

/** Counts the bitmaps of an image whose bitmaps extension can be trusted. */
export async function countBitmaps(context: CheckContext): Promise<void> {
  const { bitmaps } = context.image.header;
  if (bitmaps === null) return;
  const { directoryOffset, directorySize, nbBitmaps } = bitmaps;
  context.addArea('the bitmap directory', directoryOffset, directorySize);
  let entries: BitmapEntry[];
  try {
    const bytes = new Uint8Array(directorySize);
    await readExactly(context.image.storage, bytes, directoryOffset, 'the bitmap directory');
    entries = parseBitmapDirectory(bytes, nbBitmaps, directoryOffset);
  } catch (error) {
    context.unknown('bitmap', 'the bitmap directory', error, directoryOffset);
    return;
  }
  for (const entry of entries) await countBitmap(context, entry);
}

async function countBitmap(context: CheckContext, entry: BitmapEntry): Promise<void> {
  const { image, fileEnd } = context;
  const { tableOffset, tableSize } = entry;
  const what = `the table of bitmap ${quote(entry.name)}`;
  const length = tableSize * tableEntrySize;
  const aligned = tableOffset % image.geometry.clusterSize === 0;
  if (!aligned || tableOffset + length > fileEnd) {
    context.incomplete = true;
    context.findings.add({
      kind: 'bitmap',
      severity: 'corruption',
      where: what,
      offset: tableOffset,
      message: `${what} at ${hex(tableOffset)} ${aligned ? 'runs past the end of the file' : 'is not aligned to a cluster'}`,
    });
    return;
  }
  context.addArea(what, tableOffset, length);
  for (let at = 0; at < length; at += chunkBytes) {
    context.progress.throwIfAborted();
    const chunk = pageBytes(Math.min(chunkBytes, length - at));
    try {
      await readExactly(image.storage, chunk, tableOffset + at, what);
    } catch (error) {
      context.unknown('bitmap', what, error, tableOffset);
      return;
    }
    countBitmapData(context, chunk, what, at / tableEntrySize);
  }
}

function countBitmapData(context: CheckContext, chunk: Uint8Array, what: string, firstIndex: number): void {
  const { clusterSize } = context.image.geometry;
  const view = tableView(chunk);
  for (let index = 0; index < tableLength(view); index++) {
    const offset = readBitmapTableEntry(view, index, clusterSize);
    if (offset === 0) continue;
    if (offset > 0 && context.counts.add(offset, clusterSize, 1)) continue;
    const finding =
      offset > 0 ? `points past the end of the file, at ${hex(offset)}` : describeEntryProblem(offset);
    context.findings.add({
      kind:
        offset === EntryProblem.reservedBits
          ? 'entry-reserved-bits'
          : offset === EntryProblem.unaligned
            ? 'entry-unaligned'
            : 'entry-out-of-file',
      severity: 'corruption',
      where: `entry ${firstIndex + index} of ${what}`,
      message: `Entry ${firstIndex + index} of ${what} ${finding}`,
    });
  }
}
