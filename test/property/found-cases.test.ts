/** What random sequences and crashes brought to light, each case by itself. */
import { writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();

describe('growing a disk', () => {
  it('hides a longer backing file with zeros in version 2, too', async () => {
    await writeFile(path('base'), Buffer.alloc(65536, 7));
    const disk = await create(path('image'), 16384, {
      clusterSize: 4096,
      version: 2,
      backing: { name: 'base', format: 'raw' },
    });
    await disk.resize(49152);
    const grown = Buffer.alloc(32768, 1);
    await disk.read(grown, 16384);
    await disk.close();
    expect(grown.equals(Buffer.alloc(32768))).toBe(true);
  });

  it('does not bring back what a shrink dropped that a crash cut short', async () => {
    const image = new MemoryStorage();
    const disk = await create(image, 65536, { clusterSize: 4096 });
    await disk.write(Buffer.alloc(65536, 7), 0);
    await disk.close();
    // The new size is the first thing that a shrink makes durable.
    const size = Buffer.alloc(8);
    size.writeBigUInt64BE(16384n);
    await image.write(size, 24);

    const again = await open(image, { mode: 'r+' });
    await again.resize(65536);
    const grown = Buffer.alloc(49152, 1);
    await again.read(grown, 16384);
    await again.close();
    expect(grown.equals(Buffer.alloc(49152))).toBe(true);
  });
});
