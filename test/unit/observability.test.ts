/** What an open image tells of itself: numbers, events, and numbers for Prometheus. */
import { subscribe, tracingChannel, unsubscribe } from 'node:diagnostics_channel';
import { expect, it } from 'vitest';
import {
  create,
  latencyBounds,
  MemoryStorage,
  open,
  type ImageEvent,
  type RequestEvent,
} from '../../lib/index.js';

const cluster = 65536;

const { metrics } = (await import(new URL('../../examples/prometheus.mjs', import.meta.url).href)) as {
  metrics: (disks: Record<string, unknown>) => string;
};

async function written(): Promise<MemoryStorage> {
  const storage = new MemoryStorage();
  const disk = await create(storage, 64 * cluster);
  await disk.write(Buffer.alloc(4 * cluster, 1), 0);
  await disk.close();
  return storage;
}

it('counts requests, their bytes and failures', async () => {
  const disk = await open(await written(), { mode: 'r+' });
  await disk.read(Buffer.alloc(1000), 0);
  await disk.read(Buffer.alloc(24), 5);
  await disk.write(Buffer.alloc(10), 3);
  await disk.writeZeroes(0, cluster);
  await disk.discard(cluster, 2 * cluster);
  await disk.flush();
  await expect(disk.read(Buffer.alloc(2), 64 * cluster - 1)).rejects.toThrow();
  const { requests } = disk.stats();
  expect(requests.read).toMatchObject({ count: 3, bytes: 1024, failed: 1 });
  expect(requests.write).toMatchObject({ count: 1, bytes: 10, failed: 0 });
  expect(requests.zero).toMatchObject({ count: 1, bytes: cluster, failed: 0 });
  expect(requests.discard).toMatchObject({ count: 1, bytes: 2 * cluster });
  expect(requests.flush).toMatchObject({ count: 1, bytes: 0 });
  await disk.close();
});

it('counts look-ups in tables, and clusters taken and given back', async () => {
  const disk = await open(await written(), { mode: 'r+' });
  await disk.read(Buffer.alloc(512), 0);
  expect(disk.stats().l2Cache).toMatchObject({ hits: 0, misses: 1, bytes: 65536 });
  for (let i = 0; i < 10; i++) await disk.read(Buffer.alloc(512), i * 512);
  expect(disk.stats().l2Cache).toMatchObject({ hits: 10, misses: 1 });
  await disk.write(Buffer.alloc(3 * cluster, 2), 10 * cluster);
  expect(disk.stats().allocatedClusters).toBe(3);
  await disk.discard(10 * cluster, 2 * cluster);
  await disk.flush();
  expect(disk.stats().freedClusters).toBe(2);
  await disk.close();
});

it('measures latency from the first call of stats() on', async () => {
  const disk = await open(await written());
  const measured = (): number =>
    disk.stats().requests.read.latency.counts.reduce((total, count) => total + count, 0);
  await disk.read(Buffer.alloc(512), 0);
  expect(measured()).toBe(0);
  await disk.read(Buffer.alloc(512), 0);
  await disk.read(Buffer.alloc(512), 0);
  expect(measured()).toBe(2);
  const { counts, sum } = disk.stats().requests.read.latency;
  expect(counts).toHaveLength(latencyBounds.length + 1);
  expect(sum).toBeGreaterThan(0);
  await disk.close();
});

it('publishes openings, closings and requests on diagnostics channels', async () => {
  const seen: unknown[] = [];
  const opened = (event: unknown): void => void seen.push(['open', (event as ImageEvent).writable]);
  const closed = (event: unknown): void => void seen.push(['close', (event as ImageEvent).writable]);
  const note = ({ kind, position, length, ...rest }: RequestEvent & { error?: unknown }): void =>
    void seen.push([kind, position, length, 'error' in rest]);
  const handlers = { asyncEnd: note };
  subscribe('qcow2:open', opened);
  subscribe('qcow2:close', closed);
  tracingChannel<'qcow2:request', RequestEvent>('qcow2:request').subscribe(handlers as never);
  try {
    const disk = await open(await written(), { mode: 'r+' });
    seen.length = 0;
    await disk.read(Buffer.alloc(512), 5n);
    await disk.write(Buffer.alloc(3), 7);
    await disk.flush();
    await expect(disk.read(Buffer.alloc(2), 64 * cluster)).rejects.toThrow();
    await disk.close();
  } finally {
    unsubscribe('qcow2:open', opened);
    unsubscribe('qcow2:close', closed);
    tracingChannel('qcow2:request').unsubscribe(handlers as never);
  }
  expect(seen).toEqual([
    ['read', 5n, 512, false],
    ['write', 7, 3, false],
    ['flush', 0, 0, false],
    ['read', 64 * cluster, 2, true],
    ['close', true],
  ]);
});

it('is told to Prometheus in its text format', async () => {
  const disk = await open(await written());
  disk.stats();
  await disk.read(Buffer.alloc(512), 0);
  const text = metrics({ 'a "quoted"\nname': disk });
  await disk.close();
  const sample = /^[a-z0-9_]+\{([a-z]+="(\\.|[^"\\\n])*",?)*\} [0-9.e+-]+$/;
  const lines = text.trimEnd().split('\n');
  expect(lines.filter((line) => !line.startsWith('# ') && !sample.test(line))).toEqual([]);
  expect(text).toContain('qcow2_requests_total{disk="a \\"quoted\\"\\nname",kind="read"} 1\n');
  expect(text).toContain('kind="read",le="+Inf"} 1\n');
  expect(text).toContain('qcow2_cache_misses_total{disk="a \\"quoted\\"\\nname",cache="l2"} 1\n');
});
