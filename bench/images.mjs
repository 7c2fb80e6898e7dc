// Seeded disk images to measure with: the same bytes in every run and on every machine.
import { closeSync, existsSync, ftruncateSync, openSync, writeSync } from 'node:fs';

/** Numbers from a seed (mulberry32). */
function random(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * A raw disk of `size` bytes with about `fill` bytes written in extents of 4 KiB to 4 MiB: text, machine-code-like records,
 * noise and zeros.
 */
export function mixedRaw(path, size, fill) {
  if (existsSync(path)) return;
  const next = random(1);
  const poolBytes = 8 * 2 ** 20;
  const noise = Buffer.alloc(poolBytes);
  for (let at = 0; at < poolBytes; at += 4) noise.writeUInt32LE(Math.floor(next() * 2 ** 32), at);
  const text = words(next, poolBytes);
  const records = Buffer.alloc(poolBytes);
  for (let at = 0; at < poolBytes; at += 16) {
    records.writeUInt32LE(at, at);
    records.writeUInt16LE(Math.floor(next() * 2 ** 16), at + 4);
    records.writeUInt32LE(Math.floor(next() * 300), at + 8);
  }
  const zeros = Buffer.alloc(4 * 2 ** 20);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  for (let written = 0; written < fill;) {
    const length = 4096 * 2 ** Math.floor(next() * 11);
    const position = Math.floor((next() * (size - length)) / 4096) * 4096;
    const kind = next();
    const pool = kind < 0.3 ? text : kind < 0.5 ? records : kind < 0.9 ? noise : zeros;
    const from = Math.floor((next() * (pool.length - length)) / 512) * 512;
    writeSync(fd, pool, from, length, position);
    written += length;
  }
  closeSync(fd);
}

function words(next, length) {
  const letters = 'etaoinshrdlucmfwypvbgkjqxz';
  const vocabulary = Array.from({ length: 4000 }, () =>
    Array.from({ length: 2 + Math.floor(next() * 8) }, () => letters[Math.floor(next() ** 2 * 26)]).join(''),
  );
  const parts = [];
  for (let bytes = 0; bytes < length;) {
    const word = vocabulary[Math.floor(next() ** 2 * vocabulary.length)];
    parts.push(word);
    bytes += word.length + 1;
  }
  return Buffer.from(parts.join(' ')).subarray(0, length);
}
