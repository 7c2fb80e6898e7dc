// A seeded raw disk as guests leave them.
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { random } from './random.mjs';

const poolBytes = 8 * 2 ** 20;

/**
 * A raw disk of `size` bytes with about `fill` bytes written in extents of 4 KiB to 4 MiB: text, machine-code-like records,
 * noise and zeros.
 */
export function mixedRaw(path, size, fill) {
  const next = random(1);
  const noise = noiseBytes(next, poolBytes);
  const text = words(next, poolBytes);
  const records = Buffer.alloc(poolBytes);
  for (let at = 0; at < poolBytes; at += 16) {
    records.writeUInt32LE(at, at);
    records.writeUInt16LE(Math.floor(next() * 2 ** 16), at + 4);
    records.writeUInt32LE(Math.floor(next() * 300), at + 8);
  }
  const zeros = Buffer.alloc(4 * 2 ** 20);
  const longest = Math.min(11, Math.floor(Math.log2(size / 4096)));
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  for (let written = 0; written < fill;) {
    const length = 4096 * 2 ** Math.floor(next() * longest);
    const position = Math.floor((next() * (size - length)) / 4096) * 4096;
    const kind = next();
    const pool = kind < 0.3 ? text : kind < 0.5 ? records : kind < 0.9 ? noise : zeros;
    const from = Math.floor((next() * (pool.length - length)) / 512) * 512;
    writeSync(fd, pool, from, length, position);
    written += length;
  }
  closeSync(fd);
}

/** Bytes that do not compress. */
export function noiseBytes(next, length) {
  const noise = Buffer.alloc(length);
  for (let at = 0; at < length; at += 4) noise.writeUInt32LE(Math.floor(next() * 2 ** 32), at);
  return noise;
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
