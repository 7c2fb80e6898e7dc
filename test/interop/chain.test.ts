/** A chain given layer by layer reads as the chain that qemu-img sees when the headers say the same. */
import { describe, expect, it } from 'vitest';
import { MemoryStorage, compare, convert, create, openChain, type Disk } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent, qemuImg, qemuIo } from '../support/oracle.js';
import { makeChain, type ChainFile } from '../support/random-chain.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 1024 * 1024;
const files: ChainFile[] = [
  { format: 'raw', size: 2 * MiB },
  { format: 'qcow2', size: MiB, options: 'cluster_size=4k' },
  { format: 'qcow2', size: 3 * MiB, options: 'extended_l2=on' },
  { format: 'qcow2', size: 2 * MiB + 512 },
];

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

describe('openChain', () => {
  it('reads as the whole chain, whatever the headers name', async () => {
    const paths = await makeChain(path, 'x', files, 1);
    const expected = await qemuContent(paths.at(-1) ?? '');
    for (const file of paths.slice(1)) {
      await qemuImg(['rebase', '-u', '-f', 'qcow2', '-b', '/nowhere/at/all', '-F', 'qcow2', file]);
    }
    const disk = await openChain([{ source: paths[0] ?? '', format: 'raw' }, ...paths.slice(1)]);
    expect(disk.size).toBe(2 * MiB + 512);
    expect((await contentOf(disk)).equals(expected)).toBe(true);
    const depths = new Set<number>();
    for await (const { depth, type } of disk.extents()) if (type === 'data') depths.add(depth);
    expect([...depths].sort()).toEqual([0, 1, 2, 3]);
    await convert(disk, path('flat'), { targetFormat: 'qcow2' });
    await disk.close();
    await expectCleanByQemu(path('flat'));
    expect((await qemuContent(path('flat'))).equals(expected)).toBe(true);
  });

  it('takes an order that no header says', async () => {
    const a = await create(path('a'), MiB);
    await a.write(Buffer.alloc(1000, 1), 0);
    await a.close();
    const storage = new MemoryStorage();
    const b = await create(storage, MiB);
    await b.write(Buffer.alloc(1000, 2), 65536);
    await b.close();
    const both = Buffer.alloc(MiB);
    both.fill(1, 0, 1000).fill(2, 65536, 66536);
    for (const layers of [
      [path('a'), storage],
      [storage, path('a')],
    ]) {
      const disk = await openChain(layers);
      expect((await contentOf(disk)).equals(both)).toBe(true);
      await disk.close();
    }
    const chain = await openChain([path('a'), storage]);
    const alone = await openChain([path('a')]);
    const starts: number[] = [];
    for await (const { start } of compare(chain, alone)) starts.push(start);
    expect(starts).toEqual([65536]);
    await chain.close();
    await alone.close();
  });

  it('unlocks each layer with its own secret', async () => {
    const size = MiB;
    const layers: { source: string; secret: string }[] = [];
    for (const [index, secret] of ['first', 'second'].entries()) {
      const source = path(secret);
      const disk = await create(source, size, { encryption: { secret, iterTimeMs: 1 } });
      await disk.write(Buffer.alloc(4096, index + 1), index * 65536);
      await disk.close();
      layers.push({ source, secret });
    }
    const disk = await openChain(layers);
    const expected = Buffer.alloc(size).fill(1, 0, 4096).fill(2, 65536, 69632);
    expect((await contentOf(disk)).equals(expected)).toBe(true);
    await disk.close();
  });

  it('takes snapshots in the place of their images', async () => {
    const files: ChainFile[] = [
      { format: 'qcow2', size: 2 * MiB },
      { format: 'qcow2', size: 2 * MiB, options: 'cluster_size=4k' },
    ];
    const [base = '', top = ''] = await makeChain(path, 'x', files, 5);
    for (const file of [base, top]) await qemuImg(['snapshot', '-c', 'then', file]);
    const before = await qemuContent(top);
    await qemuIo(base, ['write -P 9 0 2M']);
    await qemuIo(top, ['write -P 8 512k 1M']);
    await qemuImg(['resize', '-q', '--shrink', top, '1M']);
    const disk = await openChain([
      { source: base, snapshot: 'then' },
      { source: top, snapshot: '1' },
    ]);
    expect(disk.size).toBe(2 * MiB);
    expect((await contentOf(disk)).equals(before)).toBe(true);
    await convert(disk, path('flat'), { targetFormat: 'qcow2' });
    await disk.close();
    expect((await qemuContent(path('flat'))).equals(before)).toBe(true);
    // The present base under the old top.
    const mixed = await openChain([base, { source: top, snapshot: 'then' }]);
    const head = Buffer.alloc(512);
    const own: number[] = [];
    for await (const { start, type } of mixed.extents({ layers: 'self' })) {
      if (type === 'unallocated') own.push(start);
    }
    await mixed.read(head, own[0] ?? 0);
    expect(head.equals(Buffer.alloc(512, 9))).toBe(true);
    await mixed.close();
    const refused = (code: string): Error => expect.objectContaining({ code }) as Error;
    await expect(openChain([base, { source: top, snapshot: 'never' }])).rejects.toThrow(
      refused('ERR_QCOW2_NOT_FOUND'),
    );
    await expect(openChain([{ source: base, format: 'raw', snapshot: 'then' }, top])).rejects.toThrow(
      refused('ERR_QCOW2_CONFLICT'),
    );
    // Nothing holds a lock any more.
    for (const file of [base, top]) await qemuImg(['snapshot', '-d', 'then', file]);
  });

  it('refuses a chain that cannot be, and lets its files go', async () => {
    const paths = await makeChain(path, 'x', files.slice(0, 2), 2);
    const [base = '', top = ''] = paths;
    await expect(openChain([])).rejects.toThrow(TypeError);
    await expect(openChain([top, { source: base, format: 'raw' }])).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_CONFLICT' }),
    );
    await expect(openChain([base, path('missing')])).rejects.toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    await expect(openChain([base, { source: base, format: 'qcow2' }])).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_NOT_QCOW2' }),
    );
    // Nothing holds a lock any more.
    await qemuImg(['commit', '-q', '-f', 'qcow2', top]);
  });
});
