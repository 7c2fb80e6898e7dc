/** Cutting a disk or a file into equal parts, and adding ranges to them. */
import type { PartList } from './record.js';

/** Bytes of a part so that there are at most `parts` of whole clusters. */
export function partBytesFor(size: number, parts: number, clusterSize: number): number {
  return Math.max(1, Math.ceil(size / parts / clusterSize)) * clusterSize;
}

export function partCount(size: number, partBytes: number): number {
  return Math.max(1, Math.ceil(size / partBytes));
}

export function emptyParts<Kind extends string>(
  kinds: readonly Kind[],
  size: number,
  partBytes: number,
): PartList<Kind> {
  const count = partCount(size, partBytes);
  const bytes = Object.fromEntries(kinds.map((kind) => [kind, new Float64Array(count)]));
  return { size, partBytes, bytes: bytes as Record<Kind, Float64Array> };
}

/** Adds bytes [start, start + length) to the parts they lie in; what lies past the last part counts to that. */
export function addRange<Kind extends string>(
  { partBytes, bytes }: PartList<Kind>,
  kind: Kind,
  start: number,
  length: number,
): void {
  const list = bytes[kind];
  for (let at = start, end = start + length; at < end;) {
    const part = Math.min(list.length - 1, Math.floor(at / partBytes));
    const stop = part === list.length - 1 ? end : Math.min(end, (part + 1) * partBytes);
    list[part] = (list[part] ?? 0) + stop - at;
    at = stop;
  }
}
