/**
 * Every image of the corpus that opens, written to: damaged ranges refuse, sound ones take the write, and nothing else
 * of the disk changes.
 */
import { describe, expect, it } from 'vitest';
import { MemoryStorage, open, type Qcow2 } from '../../lib/index.js';
import { patternOf } from './builder.js';
import { corpus } from './corpus.js';
import { checkOpened, expectCode, failure } from './expectations.js';
import type { GuestRange, HostileCase, Opened } from './outcome.js';
import { unitsOf } from './ranges.js';
import { guest } from './standard.js';

interface WritableCase extends HostileCase {
  readonly outcome: Opened;
}

const cases = corpus().filter(
  (hostile): hostile is WritableCase =>
    hostile.outcome.kind === 'opened' && hostile.outcome.writing.needsCheck === undefined,
);

describe(`writing to ${cases.length} hostile and odd images`, () => {
  it.each(cases)('$name', async ({ bytes, outcome }) => {
    const storage = new MemoryStorage(bytes);
    if (outcome.writing.open !== undefined) {
      expectCode(await failure(open(storage, { mode: 'r+' })), outcome.writing.open);
      expect((await contentOf(storage)).equals(bytes)).toBe(true);
      return;
    }
    const content = Buffer.from(outcome.content);
    const disk = await open(storage, { mode: 'r+' });
    await writeToAll(disk, outcome, content);
    await disk.close();
    const again = await open(storage);
    await checkOpened(again, { ...outcome, content });
    await again.close();
  });
});

/** Tries every kind of range, keeping `content` what the guest must see afterwards. */
async function writeToAll(disk: Qcow2, outcome: Opened, content: Buffer): Promise<void> {
  const { broken, writing } = outcome;
  const refused = [...broken, ...(writing.refused ?? [])];
  const { clusterSize } = disk.header.geometry;
  for (const unit of unitsOf(disk, refused)) {
    if (!unit.broken) continue;
    const data = patternOf(99, Math.min(700, unit.end - unit.start));
    expectCode(await failure(disk.write(data, unit.start)), 'ERR_QCOW2_CORRUPT');
  }
  const write = async (cluster: number, code: string | undefined): Promise<void> => {
    const position = cluster * clusterSize + 100;
    const data = patternOf(cluster + 50, 300);
    if (position < 0 || position + data.length > disk.size || touches(refused, position, data.length)) return;
    if (code !== undefined) {
      expectCode(await failure(disk.write(data, position)), code);
      return;
    }
    await disk.write(data, position);
    content.set(data, position);
  };
  await write(guest.lastData, undefined);
  await write(guest.data, undefined);
  await write(guest.unallocated + 3, writing.allocating);
  if (writing.allocating === undefined) await write(Math.floor(disk.size / clusterSize) - 2, undefined);
  await disk.flush();
}

const touches = (ranges: readonly GuestRange[], start: number, length: number): boolean =>
  ranges.some(([from, to]) => start < to && from < start + length);

async function contentOf(storage: MemoryStorage): Promise<Buffer> {
  const bytes = Buffer.alloc(await storage.size());
  await storage.read(bytes, 0);
  return bytes;
}
