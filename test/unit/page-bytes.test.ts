/** Memory that begins with a page. */
import { expect, it } from 'vitest';
import { native } from '../../lib/native.js';
import { pageBytes } from '../../lib/storage/page-bytes.js';

it('tells how far behind a multiple a buffer begins', () => {
  const bytes = new Uint8Array(4096 + 64);
  const first = native.misalignment(bytes, 4096);
  expect(native.misalignment(bytes.subarray(40), 4096)).toBe((first + 40) % 4096);
  expect(native.misalignment(bytes.subarray(4096), 4096)).toBe(first);
  expect(native.misalignment(bytes, 1)).toBe(0);
});

it.each([0, 1, 4095, 4096, 65536, 3_000_000])('gives %i zeroed bytes at a page', (length) => {
  const bytes = pageBytes(length);
  expect(bytes.length).toBe(length);
  expect(native.isZero(bytes)).toBe(true);
  if (length > 0) expect(native.misalignment(bytes, 4096)).toBe(0);
});
