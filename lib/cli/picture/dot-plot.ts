/** The plot of places: a dot wherever a part of the disk (from left to right) is stored in a part of the file (down). */
import type { ImagePicture } from '../../operations/picture/record.js';

/** Shares of a part of the disk from which a dot is darker. */
const levels = [0, 0.02, 0.1, 0.4] as const;

/** Paths, one for each level of darkness; `side` by `side` units. */
export function dotPaths({ links: { side, bytes } }: ImagePicture): string {
  const outlines = levels.map(() => '');
  const most = bytes.reduce((top, value) => Math.max(top, value), 0);
  bytes.forEach((value, index) => {
    if (value === 0) return;
    const level = levels.findLastIndex((least) => value / most > least);
    const disk = Math.floor(index / side);
    const file = index % side;
    outlines[level] = `${outlines[level] ?? ''}M${disk} ${file}h1v1h-1z`;
  });
  return outlines
    .map((outline, level) => (outline === '' ? '' : `<path class="dot-${level}" d="${outline}"/>`))
    .join('');
}
