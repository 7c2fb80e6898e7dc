/** One self-contained page that shows an image: drawings, the numbers behind them, and a script to move about in them. */
import { createHash } from 'node:crypto';
import { fileKinds, guestKinds } from '../../operations/picture/record.js';
import type { ImagePicture, LayerPicture, PartList } from '../../operations/picture/record.js';
import { dotPaths } from './dot-plot.js';
import { fileText, guestText, type KindText } from './kinds.js';
import { pageScript } from './page-script.js';
import { logPath, stripHeight, stripPaths } from './strip.js';
import { drawingStyle, pageStyle } from './style.js';
import { bitmapTable, kindTable, layerTable, metadataTable, rangeTable, snapshotTable } from './tables.js';
import { bytesText, countText, escapeMarkup, foreignText, shareText, sum } from './text.js';

/** Layers that get a strip; all are in the table. */
const maxDrawnLayers = 12;

/** @param title the image's name, as the person named it */
export function picturePage(picture: ImagePicture, title: string): string {
  const style = drawingStyle + pageStyle;
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  // The page asks nobody for anything, and runs no script but its own, whatever names in the image say.
  const policy = `default-src 'none'; style-src ${hash(style)}; script-src ${hash(pageScript)}; img-src data:`;
  const name = foreignText(title);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>${escapeMarkup(title.replace(/[\x00-\x1f\x7f]/g, ' '))} – map of a qcow2 image</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>${name}</h1>
${tiles(picture)}
${diskSection(picture)}
${fileSection(picture)}
${placesSection(picture)}
${chainSection(picture)}
${listSections(picture)}
</main>
<script type="application/json" id="picture">${pageData(picture)}</script>
<script>${pageScript}</script>
</body>
</html>
`;
}

function tiles({ virtualSize, clusterSize, file, layers, refcountsTooLow }: ImagePicture): string {
  const disk = layers[0]?.disk.bytes;
  const pieces = sum(layers[0]?.pieces ?? []);
  const leaked = sum(file.bytes.leaked);
  const entries: [string, string, boolean?][] = [
    ['Disk', bytesText(virtualSize)],
    ['File', bytesText(file.size)],
    ['Clusters', bytesText(clusterSize)],
    ['Stored', bytesText(sum(disk?.data ?? []))],
    ['Compressed', bytesText(sum(disk?.compressed ?? []))],
    ['Pieces', countText(pieces)],
    ['Leaked', bytesText(leaked), leaked > 0],
    ['Wrong refcounts', countText(refcountsTooLow), refcountsTooLow > 0],
  ];
  const list = entries.map(
    ([what, value, bad]) =>
      `<div${bad === true ? ' class="bad"' : ''}><dt>${what}</dt><dd>${value}</dd></div>`,
  );
  return `<dl class="tiles">${list.join('')}</dl>`;
}

function legend<Kind extends string>(kinds: readonly Kind[], text: Record<Kind, KindText>): string {
  const items = kinds.map(
    (kind) =>
      `<li><svg viewBox="0 0 1 1" aria-hidden="true"><rect class="kind-${kind}" width="1" height="1"/></svg>` +
      `${text[kind].label} <span>– ${text[kind].meaning}</span></li>`,
  );
  return `<ul class="legend">${items.join('')}</ul>`;
}

/** @param group strips of a group are moved together */
function strip(
  caption: string,
  list: PartList<string>,
  paths: string,
  name: string,
  group: string,
  css = '',
): string {
  const parts = Math.max(1, Math.ceil(list.size / list.partBytes));
  return `<figure>
<figcaption>${caption}</figcaption>
<svg class="strip${css}" data-list="${name}" data-group="${group}" viewBox="0 0 ${parts} ${stripHeight}" preserveAspectRatio="none" shape-rendering="crispEdges" role="img" aria-label="${plain(caption)}">${paths}</svg>
<div class="axis"><span>0 bytes</span><span>${bytesText(list.size / 2)}</span><span>${bytesText(list.size)}</span></div>
<div class="bar"><output aria-hidden="true"></output></div>
</figure>`;
}

const plain = (markup: string): string => markup.replace(/<[^>]*>/g, '');

const help =
  '<p>Point at a column to see what it holds. The wheel, the buttons or the keys <kbd>+</kbd>, <kbd>-</kbd> and <kbd>0</kbd> ' +
  'zoom; drag to move. With the keyboard: <kbd>Tab</kbd> to a strip, then the arrow keys, <kbd>Home</kbd> and <kbd>End</kbd>.</p>';

function diskSection({ layers }: ImagePicture): string {
  const [top] = layers;
  if (top === undefined) return '';
  const { disk, pieces } = top;
  const most = pieces.reduce((high, value) => Math.max(high, value), 0);
  return `<h2>The disk, as the guest sees it</h2>
${help}
${legend(guestKinds, guestText)}
${strip('What each part of the disk is in this image', disk, stripPaths(disk, guestKinds), 'disk', 'disk')}
${strip(`Pieces that begin in each part (logarithmic, up to ${countText(most)}): the more, the more fragmented`, disk, logPath(pieces), 'pieces', 'disk', ' low')}
${kindTable('The disk by kind', disk, guestKinds, guestText)}
<details><summary>The disk by range</summary>${rangeTable('The disk by range', disk, guestKinds, guestText)}</details>`;
}

function fileSection(picture: ImagePicture): string {
  const { file, dataFile } = picture;
  const data =
    dataFile === null
      ? ''
      : strip('The external data file', dataFile, stripPaths(dataFile, fileKinds), 'dataFile', 'dataFile');
  return `<h2>The file</h2>
${legend(fileKinds, fileText)}
${strip('What each part of the image file is used for', file, stripPaths(file, fileKinds), 'file', 'file')}
${data}
${kindTable('The file by kind', file, fileKinds, fileText)}
<details><summary>The file by range</summary>${rangeTable('The file by range', file, fileKinds, fileText)}</details>
<details><summary>Metadata by what it is</summary>${metadataTable(picture)}</details>`;
}

function placesSection(picture: ImagePicture): string {
  const { links, virtualSize, file, dataFile } = picture;
  const whole = dataFile ?? file;
  return `<h2>Where each part of the disk lives</h2>
<p>From left to right the disk (0 to ${bytesText(virtualSize)}), from top to bottom the ${dataFile === null ? 'file' : 'data file'} (0 to
${bytesText(whole.size)}). A disk that is stored in order is one diagonal; dots all over mean that reading it in order jumps about in the
file. The stronger the colour, the more is stored there.</p>
<svg class="plot" viewBox="0 0 ${links.side} ${links.side}" shape-rendering="crispEdges" role="img" aria-label="Places of the disk in the file; the tables above have the numbers">${dotPaths(picture)}</svg>`;
}

function chainSection(picture: ImagePicture): string {
  const { layers } = picture;
  if (layers.length < 2) return '';
  const strips = layers.slice(0, maxDrawnLayers).map((layer, depth) => layerStrip(layer, depth));
  const more = layers.length > maxDrawnLayers ? `<p>${layers.length - maxDrawnLayers} more below.</p>` : '';
  return `<h2>The backing chain</h2>
<p>What each image stores itself, the top first. The guest sees the topmost that has something; all strips are of the same part of
the disk.</p>
${strips.join('\n')}${more}
${layerTable(picture)}`;
}

function layerStrip({ name, format, disk }: LayerPicture, depth: number): string {
  const caption = `${depth}: ${name === null ? 'this image' : foreignText(name)} (${format}), ${shareText(sum(disk.bytes.data) + sum(disk.bytes.compressed), disk.size)} stored`;
  return strip(caption, disk, stripPaths(disk, guestKinds), `layer${depth}`, 'chain', ' low');
}

function listSections(picture: ImagePicture): string {
  const { snapshots, bitmaps } = picture;
  return (
    (snapshots.length === 0 ? '' : `<h2>Snapshots</h2>\n${snapshotTable(picture)}`) +
    (bitmaps.length === 0 ? '' : `<h2>Bitmaps</h2>\n${bitmapTable(picture)}`)
  );
}

interface ListData {
  size: number;
  partBytes: number;
  parts: number;
  /** The kind that is a number, not bytes. */
  count?: string;
  /** By label: how many parts have which number, in turn. */
  kinds: Record<string, number[]>;
}

function listData<Kind extends string>(
  list: PartList<Kind>,
  kinds: readonly Kind[],
  text: Record<Kind, KindText>,
): ListData {
  const { size, partBytes } = list;
  const entries = kinds.map((kind) => [text[kind].label, runs(list.bytes[kind])] as const);
  return {
    size,
    partBytes,
    parts: Math.max(1, Math.ceil(size / partBytes)),
    kinds: Object.fromEntries(entries),
  };
}

function runs(values: Float64Array): number[] {
  const list: number[] = [];
  for (const value of values) {
    if (list.length > 0 && list.at(-1) === value) list[list.length - 2] = (list.at(-2) ?? 0) + 1;
    else list.push(1, value);
  }
  return list;
}

/** What the script needs, as JSON that cannot end the element it stands in. */
function pageData({ layers, file, dataFile, links, virtualSize }: ImagePicture): string {
  const lists: Record<string, ListData> = { file: listData(file, fileKinds, fileText) };
  const [top] = layers;
  if (top !== undefined) {
    lists.disk = listData(top.disk, guestKinds, guestText);
    lists.pieces = { ...lists.disk, count: 'pieces', kinds: { pieces: runs(top.pieces) } };
  }
  if (dataFile !== null) lists.dataFile = listData(dataFile, fileKinds, fileText);
  layers.slice(0, maxDrawnLayers).forEach(({ disk }, depth) => {
    lists[`layer${depth}`] = listData(disk, guestKinds, guestText);
  });
  const plot = {
    side: links.side,
    disk: virtualSize,
    file: (dataFile ?? file).size,
    bytes: runs(links.bytes),
  };
  return JSON.stringify({ lists, plot }).replaceAll('<', '\\u003c');
}
