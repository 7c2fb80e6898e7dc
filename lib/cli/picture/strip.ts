/** Strips: a disk or a file from its first byte to its last, each part a column that shows how much of it is what. */
import type { PartList } from '../../operations/picture/record.js';

/** Height of a strip in its own units; its width is the number of parts. */
export const stripHeight = 100;
/** What is there is seen, however little it is of its part. */
const leastHeight = 8;

/** The columns of a strip, one path for each kind, stacked from the bottom in the order of `kinds`. */
export function stripPaths<Kind extends string>(list: PartList<Kind>, kinds: readonly Kind[]): string {
  const [first] = kinds;
  if (first === undefined) return '';
  const count = list.bytes[first].length;
  const below = new Float64Array(count);
  return kinds
    .map((kind) => {
      const bars = columns(list, kind, below);
      return bars === '' ? '' : `<path class="kind-${kind}" d="${bars}"/>`;
    })
    .join('');
}

/** The outlines of a kind's bars; neighbours alike become one. Moves `below` up by their heights. */
function columns<Kind extends string>(
  { size, partBytes, bytes }: PartList<Kind>,
  kind: Kind,
  below: Float64Array,
): string {
  const list = bytes[kind];
  let outline = '';
  let from = 0;
  let before: readonly [bottom: number, height: number] = [0, 0];
  const draw = (to: number): void => {
    const [bottom, height] = before;
    if (height > 0)
      outline += `M${from} ${round(stripHeight - bottom)}h${to - from}v${round(-height)}h${from - to}z`;
  };
  for (let part = 0; part < list.length; part++) {
    const whole = Math.min(partBytes, size - part * partBytes);
    const share = whole <= 0 ? 0 : Math.min(1, (list[part] ?? 0) / whole);
    const height = share === 0 ? 0 : Math.max(leastHeight, share * stripHeight);
    const bottom = Math.min(below[part] ?? 0, stripHeight - height);
    below[part] = bottom + height;
    if (bottom === before[0] && height === before[1]) continue;
    draw(part);
    from = part;
    before = [bottom, height];
  }
  draw(list.length);
  return outline;
}

/** Bars of one kind whose height grows with the logarithm of the numbers. */
export function logPath(values: Float64Array): string {
  const top = Math.log1p(values.reduce((most, value) => Math.max(most, value), 0));
  if (top === 0) return '';
  let outline = '';
  values.forEach((value, part) => {
    if (value === 0) return;
    const height = round(Math.max(2, (Math.log1p(value) / top) * stripHeight));
    outline += `M${part} ${stripHeight}h1v${-height}h-1z`;
  });
  return `<path class="pieces" d="${outline}"/>`;
}

const round = (value: number): number => Math.round(value * 10) / 10;
