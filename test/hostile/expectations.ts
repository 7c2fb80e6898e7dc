/** What tests ask of an image after opening it, against what the corpus says. */
import { expect } from 'vitest';
import { Qcow2Error, type Qcow2 } from '../../lib/index.js';
import type { Opened } from './outcome.js';
import { unitsOf } from './ranges.js';

/** What an opened image must answer: its content, errors on what is broken, and extents that fit. */
export async function checkOpened(disk: Qcow2, outcome: Opened): Promise<void> {
  expect(disk.size).toBe(outcome.content.length);
  if (outcome.info === undefined) expect((await disk.info()).virtualSize).toBe(disk.size);
  else expectCode(await failure(disk.info()), outcome.info);
  if (outcome.locked === true) {
    expectCode(await failure(disk.read(Buffer.alloc(512), 0)), 'ERR_QCOW2_SECRET');
    return;
  }
  for (const { start, end, broken } of unitsOf(disk, outcome.broken)) {
    const buffer = Buffer.alloc(end - start, 0xcc);
    if (broken) expectCode(await failure(disk.read(buffer, start)), 'ERR_QCOW2_CORRUPT');
    else {
      await disk.read(buffer, start);
      expectSame(buffer, outcome.content.subarray(start, end), start);
    }
  }
  if (outcome.broken.length === 0) {
    const whole = Buffer.alloc(disk.size);
    await disk.read(whole, 0);
    expectSame(whole, outcome.content, 0);
  } else expectCode(await failure(disk.read(Buffer.alloc(disk.size), 0)), 'ERR_QCOW2_CORRUPT');
  await checkExtents(disk, outcome);
}

/** Extents come without gaps; what they call empty is empty. On damage they may end early, with the right error. */
async function checkExtents(disk: Qcow2, { content, broken }: Opened): Promise<void> {
  let at = 0;
  try {
    for await (const { start, length, type } of disk.extents()) {
      expect(start).toBe(at);
      at += length;
      if (type === 'zero' || type === 'unallocated') {
        expectSame(Buffer.alloc(length), content.subarray(start, at), start);
      }
    }
  } catch (error) {
    if (broken.length === 0 || !(error instanceof Qcow2Error)) throw error;
    expectCode(error, 'ERR_QCOW2_CORRUPT');
    return;
  }
  expect(at).toBe(disk.size);
}

function expectSame(got: Buffer, wanted: Buffer, start: number): void {
  if (got.equals(wanted)) return;
  const index = got.findIndex((byte, i) => byte !== wanted[i]);
  expect.fail(`guest byte ${start + index} is ${got[index] ?? -1}, not ${wanted[index] ?? -1}`);
}

/** The error a call fails with; anything but a Qcow2Error fails the test. */
export async function failure(promise: Promise<unknown>): Promise<Qcow2Error> {
  const error = await promise.then(
    () => expect.fail('it did not fail'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof Qcow2Error)) throw error;
  return error;
}

/** The code, and a message that does nothing to a terminal it is printed on. */
export function expectCode(error: Qcow2Error, code: string): void {
  expect(error.code, error.message).toBe(code);
  expect(error.message).toMatch(/^[\x20-\x7e\u00a0-\uffff]+$/);
}
