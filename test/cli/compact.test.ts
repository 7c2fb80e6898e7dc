/** compact, dehydrate and rehydrate on the command line. */
import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create } from '../../lib/index.js';
import { expectCleanByQemu, qemuContent } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';
import { qcow2 } from './run.js';

const kib = 1024;
const size = 4096 * kib;
const temp = useTempDir();

/** An image whose first half was discarded, and in which 1 MiB of zeros is stored. */
async function makeImage(): Promise<Buffer> {
  const disk = await create(temp('image'), size);
  const content = pattern(1, size);
  content.fill(0, 3072 * kib);
  await disk.write(content, 0);
  await disk.discard(0, size / 2);
  await disk.close();
  return content.fill(0, 0, size / 2);
}

describe('qcow2 compact', () => {
  it('makes the file smaller and tells by how much', async () => {
    const content = await makeImage();
    const before = (await stat(temp('image'))).size;
    const { code, stdout, stderr } = await qcow2(['compact', '--output=json', 'image'], temp());
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const after = (await stat(temp('image'))).size;
    const report = JSON.parse(stdout) as Record<string, number>;
    expect(report).toMatchObject({ copied: size / 2, 'old-size': before, 'new-size': after });
    expect(before - after).toBeGreaterThanOrEqual(size / 2);
    const zeroes = await qcow2(['compact', '-p', '--detect-zeroes', 'image'], temp());
    expect(zeroes.code).toBe(0);
    expect(zeroes.stdout).toContain('100.00/100%');
    expect(after - (await stat(temp('image'))).size).toBeGreaterThanOrEqual(1024 * kib);
    await expectCleanByQemu(temp('image'));
    expect((await qemuContent(temp('image'))).equals(content)).toBe(true);
  });

  it('says why not', async () => {
    expect(await qcow2(['compact'], temp())).toMatchObject({ code: 1 });
    const missing = await qcow2(['compact', 'missing'], temp());
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("Could not open 'missing'");
  });
});

describe('qcow2 dehydrate and rehydrate', () => {
  it('carry the structure over', async () => {
    await makeImage();
    const there = await qcow2(['dehydrate', 'image', 'dry'], temp());
    expect(there).toEqual({ code: 0, stdout: '', stderr: '' });
    expect((await stat(temp('dry'))).size).toBeLessThan(4 * kib);
    const back = await qcow2(['rehydrate', 'dry', 'again'], temp());
    expect(back).toEqual({ code: 0, stdout: '', stderr: '' });
    const maps = await Promise.all(['image', 'again'].map((name) => qcow2(['check', name], temp())));
    expect(maps[1]).toEqual(maps[0]);
    await expectCleanByQemu(temp('again'));
  });

  it('leave nothing half-made', async () => {
    await makeImage();
    const wrong = await qcow2(['rehydrate', 'image', 'again'], temp());
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toContain('no dehydrated image');
    await expect(stat(temp('again'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});
