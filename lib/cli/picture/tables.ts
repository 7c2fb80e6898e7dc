/** The numbers behind the drawings, for those who do not see them, and for those who want them exactly. */
import type { ImagePicture, PartList } from '../../operations/picture/record.js';
import type { KindText } from './kinds.js';
import { bytesText, countText, escapeMarkup, foreignText, shareText, sum } from './text.js';

/** Rows of a table of ranges at most. */
const maxRanges = 64;
/** Rows of a list from the image at most; the rest is told as a number. */
const maxRows = 500;

type Cell = string | { readonly html: string };

const cellText = (cell: Cell): string => (typeof cell === 'string' ? escapeMarkup(cell) : cell.html);

/** A table; its first column and those in `texts` are text, the others numbers. */
function table(
  caption: string,
  heads: readonly string[],
  rows: readonly (readonly Cell[])[],
  texts: readonly number[] = [],
): string {
  const css = (column: number): string => (texts.includes(column) ? ' class="text"' : '');
  const head = heads
    .map((text, column) => `<th scope="col"${css(column)}>${escapeMarkup(text)}</th>`)
    .join('');
  const body = rows
    .map(([first = '', ...rest]) => {
      const cells = rest.map((cell, i) => `<td${css(i + 1)}>${cellText(cell)}</td>`).join('');
      return `<tr><th scope="row" class="text">${cellText(first)}</th>${cells}</tr>`;
    })
    .join('\n');
  return (
    `<div class="wide" tabindex="0" role="region" aria-label="${escapeMarkup(caption)}"><table>` +
    `<thead><tr>${head}</tr></thead>\n<tbody>${body}</tbody></table></div>`
  );
}

/** Bytes of each kind, and their share. */
export function kindTable<Kind extends string>(
  caption: string,
  list: PartList<Kind>,
  kinds: readonly Kind[],
  text: Record<Kind, KindText>,
): string {
  const rows = kinds.map((kind) => {
    const bytes = sum(list.bytes[kind]);
    return [
      text[kind].label,
      bytesText(bytes),
      countText(bytes),
      shareText(bytes, list.size),
      text[kind].meaning,
    ];
  });
  return table(caption, ['Kind', 'Size', 'Bytes', 'Share', 'Meaning'], rows, [4]);
}

/** The same by ranges, a few dozen of them. */
export function rangeTable<Kind extends string>(
  caption: string,
  list: PartList<Kind>,
  kinds: readonly Kind[],
  text: Record<Kind, KindText>,
): string {
  const [first] = kinds;
  const parts = first === undefined ? 0 : list.bytes[first].length;
  const step = Math.ceil(parts / maxRanges);
  const rows = [];
  for (let part = 0; part < parts; part += step) {
    const end = Math.min(list.size, (part + step) * list.partBytes);
    rows.push([
      `${bytesText(part * list.partBytes)} to ${bytesText(end)}`,
      ...kinds.map((kind) => bytesText(sum(list.bytes[kind].subarray(part, part + step)))),
    ]);
  }
  return table(caption, ['Range', ...kinds.map((kind) => text[kind].label)], rows);
}

export function metadataTable({ metadata }: ImagePicture): string {
  return table(
    'Metadata',
    ['What', 'Size', 'Bytes'],
    metadata.map(({ what, bytes }) => [what, bytesText(bytes), countText(bytes)]),
  );
}

export function layerTable({ layers }: ImagePicture): string {
  const rows = layers.map(({ name, format, size, disk, pieces }, depth) => [
    String(depth),
    name === null ? 'this image' : { html: foreignText(name) },
    format,
    bytesText(size),
    bytesText(sum(disk.bytes.data) + sum(disk.bytes.compressed)),
    countText(sum(pieces)),
  ]);
  return table(
    'Backing chain',
    ['Depth', 'Name', 'Format', 'Size of the disk', 'Stored', 'Pieces'],
    rows,
    [1, 2],
  );
}

export function snapshotTable({ snapshots }: ImagePicture): string {
  const rows = snapshots
    .slice(0, maxRows)
    .map(({ id, name, dateSeconds, diskSize, vmStateSize }) => [
      { html: foreignText(id) },
      { html: foreignText(name) },
      new Date(dateSeconds * 1000).toISOString().replace('.000Z', ' UTC').replace('T', ' '),
      bytesText(diskSize),
      bytesText(vmStateSize),
    ]);
  return (
    table('Snapshots', ['ID', 'Name', 'Taken', 'Size of the disk', 'VM state'], rows, [1, 2]) +
    rest(snapshots.length)
  );
}

export function bitmapTable({ bitmaps }: ImagePicture): string {
  const rows = bitmaps
    .slice(0, maxRows)
    .map(({ name, granularity, flags }) => [
      { html: foreignText(name) },
      bytesText(granularity),
      flags.includes('auto') ? 'yes' : 'no',
      flags.includes('in-use') ? 'no: it was not closed properly' : 'yes',
    ]);
  return table('Bitmaps', ['Name', 'Granularity', 'Enabled', 'Consistent'], rows) + rest(bitmaps.length);
}

function rest(count: number): string {
  return count > maxRows ? `<p>and ${countText(count - maxRows)} more.</p>` : '';
}
