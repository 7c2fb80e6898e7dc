/** Text for HTML and SVG. Names come from images, and images from strangers. */
import { quote } from '../../format/text.js';

const entities: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text as markup that shows it. */
export const escapeMarkup = (text: string): string =>
  text.replace(/[&<>"']/g, (char) => entities[char] ?? char);

/** A name from an image: what is not plain text is shown as an escape, and its direction stays its own. */
export const foreignText = (name: string): string => `<bdi>${escapeMarkup(quote(name).slice(1, -1))}</bdi>`;

const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** Bytes in three digits, such as 1.50 GiB. */
export function bytesText(bytes: number): string {
  let unit = 0;
  let value = bytes;
  for (; value >= 1000 && unit + 1 < units.length; unit++) value /= 1024;
  return `${unit === 0 ? String(value) : value.toPrecision(3)} ${units[unit] ?? ''}`;
}

/** A share of a whole; what is there is never told to be 0 %. */
export function shareText(part: number, whole: number): string {
  if (part === 0 || whole === 0) return '0 %';
  const percent = (100 * part) / whole;
  return percent < 0.1 ? '< 0.1 %' : `${percent.toFixed(1)} %`;
}

export const countText = (count: number): string => count.toLocaleString('en-US');

export const sum = (values: Iterable<number>): number => {
  let total = 0;
  for (const value of values) total += value;
  return total;
};
