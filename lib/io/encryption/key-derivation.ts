/** PBKDF2 off the main thread, and how many iterations a wanted time is worth on this machine. */
import { pbkdf2 } from 'node:crypto';
import { promisify } from 'node:util';
import { outOfRange } from '../../errors.js';
import type { HashName } from './algorithms.js';

/** Fewer would make guessing cheap, however slow the machine. */
export const minIterations = 1000;
/** What PBKDF2 of Node.js takes. */
export const maxIterations = 2 ** 31 - 1;

const derive = promisify(pbkdf2);
/** Long enough to be measured well; shorter when the wanted time itself is, ms. */
const calibrationTime = 20;
/** An hour: a longer wait to open an image can only be a mistake in the unit, ms. */
const maxTime = 3_600_000;

/** @returns `keyBytes` bytes, which the caller wipes */
export function deriveKey(
  secret: Uint8Array,
  salt: Uint8Array,
  iterations: number,
  keyBytes: number,
  hash: HashName,
): Promise<Uint8Array> {
  return derive(secret, salt, iterations, keyBytes, hash);
}

/**
 * Iterations that take about `time` milliseconds here for a key of `keyBytes` bytes, at least 1000.
 * Of three measurements the fastest counts, as other work on the machine only ever slows them.
 * @throws RangeError `ERR_OUT_OF_RANGE` when `time` is not above 0 or is more than an hour
 */
export async function iterationsFor(time: number, keyBytes: number, hash: HashName): Promise<number> {
  if (!(time > 0 && time <= maxTime)) throw outOfRange('iterTimeMs', `above 0 and at most ${maxTime}`, time);
  let rate = 0;
  for (let run = 0; run < 3; run++) {
    rate = Math.max(rate, await measureRate(Math.min(time, calibrationTime), keyBytes, hash));
  }
  return Math.min(maxIterations, Math.max(minIterations, Math.round(rate * time)));
}

/** Iterations a millisecond, found in a run of at least `time` milliseconds. */
async function measureRate(time: number, keyBytes: number, hash: HashName): Promise<number> {
  const sample = new Uint8Array(32);
  for (let iterations = 4096; ; iterations *= 2) {
    const start = performance.now();
    await deriveKey(sample, sample, iterations, keyBytes, hash);
    const taken = performance.now() - start;
    if (taken >= time) return iterations / taken;
  }
}
