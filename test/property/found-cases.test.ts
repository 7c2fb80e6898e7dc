/** What random sequences and crashes brought to light, each case by itself. */
import { writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create } from '../../lib/index.js';
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
});
