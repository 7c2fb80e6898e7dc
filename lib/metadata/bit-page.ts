/** A piece of a bitmap in memory, in the format's order: bit 0 is the lowest bit of byte 0. */

/** Sets bits [from, to). */
export function setBits(page: Uint8Array, from: number, to: number): void {
  if (from >= to) return;
  const first = from >>> 3;
  const last = (to - 1) >>> 3;
  const head = (0xff << (from & 7)) & 0xff;
  const tail = 0xff >>> (7 - ((to - 1) & 7));
  if (first === last) {
    page[first] = (page[first] ?? 0) | (head & tail);
    return;
  }
  page[first] = (page[first] ?? 0) | head;
  page.fill(0xff, first + 1, last);
  page[last] = (page[last] ?? 0) | tail;
}

/** Clears all bits from `from` on. */
export function clearBitsFrom(page: Uint8Array, from: number): void {
  const first = from >>> 3;
  if (first >= page.length) return;
  page[first] = (page[first] ?? 0) & ~(0xff << (from & 7));
  page.fill(0, first + 1);
}

/** The first set bit in [from, to); `to` when none is. */
export function nextSet(page: Uint8Array, from: number, to: number): number {
  return nextBit(page, from, to, 0);
}

/** The first clear bit in [from, to); `to` when none is. */
export function nextClear(page: Uint8Array, from: number, to: number): number {
  return nextBit(page, from, to, 0xff);
}

/** Sets in `target` what is set in `source`, which is not longer. */
export function mergeBits(target: Uint8Array, source: Uint8Array): void {
  for (let i = 0; i < source.length; i++) target[i] = (target[i] ?? 0) | (source[i] ?? 0);
}

/** The first bit that differs from those of `flip`, which is 0 or 0xff. */
function nextBit(page: Uint8Array, from: number, to: number, flip: number): number {
  let at = from;
  while (at < to) {
    const rest = ((page[at >>> 3] ?? 0) ^ flip) >>> (at & 7);
    if (rest !== 0) return Math.min(to, at + 31 - Math.clz32(rest & -rest));
    at = (at | 7) + 1;
  }
  return to;
}
