/** The order of writes: what a commit sends to storage, one barrier after the other. */
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { pattern } from '../support/pattern.js';
import { RecordingStorage } from '../support/recording-storage.js';

const clusterSize = 512;

interface Opened {
  disk: Qcow2;
  storage: RecordingStorage;
  memory: MemoryStorage;
}

async function opened(options: CreateOptions = {}): Promise<Opened> {
  const memory = new MemoryStorage();
  await (await create(memory, 100 * 1024, { clusterSize, ...options })).close();
  const storage = await RecordingStorage.over(memory);
  return { disk: await open(storage, { mode: 'r+' }), storage, memory };
}

/** What each write touched, with `|` for a barrier. */
function story({ storage, memory }: Opened): string {
  const image = memory.toBuffer();
  const l1 = Number(image.readBigUInt64BE(40));
  const table = Number(image.readBigUInt64BE(48));
  const block = Number(image.readBigUInt64BE(table));
  const tables = new Set<number>();
  for (let at = l1; at < l1 + image.readUInt32BE(36) * 8; at += 8)
    tables.add(Number(image.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n));
  const areaOf = (position: number): string => {
    const cluster = position - (position % clusterSize);
    if (cluster === 0) return 'header';
    if (cluster === l1 - (l1 % clusterSize)) return 'L1';
    if (cluster === table) return 'refcount table';
    if (cluster === block) return 'refcounts';
    return tables.has(cluster) ? 'L2' : 'data';
  };
  return storage.log.entries
    .map(({ change }) => {
      if (change.kind === 'flush') return '|';
      return change.kind === 'truncate'
        ? 'truncate'
        : `${change.kind === 'punch' ? 'punch ' : ''}${areaOf(change.position)}`;
    })
    .join(' ');
}

describe('a commit', () => {
  it('writes data and refcounts | L2 table | L1 table', async () => {
    const image = await opened();
    await image.disk.write(pattern(1, 700), 3000);
    expect(story(image)).toBe('data');
    await image.disk.flush();
    expect(story(image)).toBe('data refcounts | L2 | L1 |');
  });

  it('needs one barrier for data that is overwritten in place, and none when nothing changed', async () => {
    const image = await opened();
    await image.disk.write(pattern(1, 700), 3000);
    await image.disk.flush();
    const before = story(image);
    await image.disk.write(pattern(2, 700), 3000);
    await image.disk.flush();
    expect(story(image)).toBe(`${before} data |`);
    await image.disk.flush();
    expect(story(image)).toBe(`${before} data |`);
  });

  it('frees and punches only what durable tables no longer refer to', async () => {
    const image = await opened();
    await image.disk.write(pattern(1, 1024), 0);
    await image.disk.flush();
    const before = story(image);
    await image.disk.discard(0, 1024);
    expect(story(image)).toBe(before);
    await image.disk.flush();
    expect(story(image)).toMatch(/\| L2 \| punch data refcounts$/);
  });

  it('marks an image with lazy refcounts dirty before its first L2 table, and clean at the end', async () => {
    const image = await opened({ lazyRefcounts: true });
    await image.disk.write(pattern(1, 700), 3000);
    await image.disk.flush();
    expect(story(image)).toBe('data header | L2 | L1 |');
    await image.disk.write(pattern(1, 700), 9000);
    await image.disk.flush();
    expect(story(image)).toBe('data header | L2 | L1 | data | L2 |');
    await image.disk.close();
    expect(story(image)).toMatch(/^data header \| L2 \| L1 \| data \| L2 \| refcounts \|( \|)? header \|$/);
  });

  it('serves all who ask for it while one is under way with one more', async () => {
    const image = await opened();
    await image.disk.write(pattern(1, 700), 3000);
    await Promise.all(Array.from({ length: 50 }, () => image.disk.flush()));
    expect(image.storage.flushes).toBeLessThanOrEqual(4);
  });
});
