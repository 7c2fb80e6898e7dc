/** The picture as one SVG file, for reports and documents. */
import { fileKinds, guestKinds } from '../../operations/picture/record.js';
import type { ImagePicture, PartList } from '../../operations/picture/record.js';
import { dotPaths } from './dot-plot.js';
import { fileText, guestText } from './kinds.js';
import { stripHeight, stripPaths } from './strip.js';
import { drawingStyle } from './style.js';
import { bytesText, escapeMarkup, sum } from './text.js';
import { quote } from '../../format/text.js';

const width = 1000;
const margin = 24;
const textStyle =
  'text{font:14px system-ui,sans-serif;fill:var(--ink)}.title{font-size:20px;font-weight:600}.small{font-size:12px;fill:var(--quiet)}' +
  '.paper{fill:var(--paper)}';

/** @param title the image's name, as the person named it */
export function pictureDrawing(picture: ImagePicture, title: string): string {
  const { layers, file, virtualSize, links } = picture;
  const name = escapeMarkup(quote(title).slice(1, -1));
  const top = layers[0]?.disk;
  const plotTop = 330;
  const plotSide = 420;
  const height = plotTop + plotSide + 60;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="title desc">
<title id="title">Map of ${name}</title>
<desc id="desc">${summary(picture)}</desc>
<style>${drawingStyle}${textStyle}</style>
<rect class="paper" width="${width}" height="${height}"/>
<text class="title" x="${margin}" y="36">${name}</text>
<text class="small" x="${margin}" y="56">${summary(picture)}</text>
${top === undefined ? '' : band('The disk', top, stripPaths(top, guestKinds), 84)}
${band('The file', file, stripPaths(file, fileKinds), 204)}
<text x="${margin}" y="${plotTop - 8}">Where each part of the disk (0 to ${bytesText(virtualSize)}, left to right) lives in the file (top to bottom)</text>
<svg x="${margin}" y="${plotTop}" width="${plotSide}" height="${plotSide}" viewBox="0 0 ${links.side} ${links.side}" shape-rendering="crispEdges"><rect class="back" width="100%" height="100%"/>${dotPaths(picture)}</svg>
${legend(plotSide + 3 * margin, plotTop + 20)}
</svg>
`;
}

function summary({ virtualSize, file, layers }: ImagePicture): string {
  const disk = layers[0]?.disk.bytes;
  return (
    `${bytesText(virtualSize)} disk in a file of ${bytesText(file.size)}: ${bytesText(sum(disk?.data ?? []))} data, ` +
    `${bytesText(sum(disk?.compressed ?? []))} compressed, ${bytesText(sum(disk?.zero ?? []))} zeros, ` +
    `${bytesText(sum(file.bytes.metadata))} metadata, ${bytesText(sum(file.bytes.leaked))} leaked`
  );
}

function band(title: string, list: PartList<string>, paths: string, y: number): string {
  const parts = Math.max(1, Math.ceil(list.size / list.partBytes));
  const inner = width - 2 * margin;
  return `<text x="${margin}" y="${y}">${title}, 0 to ${bytesText(list.size)}</text>
<svg x="${margin}" y="${y + 8}" width="${inner}" height="76" viewBox="0 0 ${parts} ${stripHeight}" preserveAspectRatio="none" shape-rendering="crispEdges"><rect class="back" width="${parts}" height="${stripHeight}"/>${paths}</svg>`;
}

function legend(x: number, y: number): string {
  const rows = [
    ...guestKinds.map((kind) => ({
      kind,
      text: `Disk: ${guestText[kind].label} – ${guestText[kind].meaning}`,
    })),
    ...fileKinds.map((kind) => ({ kind, text: `File: ${fileText[kind].label} – ${fileText[kind].meaning}` })),
  ];
  return rows
    .map(
      ({ kind, text }, row) =>
        `<rect class="kind-${kind}" x="${x}" y="${y + row * 26 - 11}" width="14" height="14"/>` +
        `<text class="small" x="${x + 22}" y="${y + row * 26}">${escapeMarkup(text)}</text>`,
    )
    .join('\n');
}
