/** Bitmaps that QEMU made stay true through everything this package does to the disk, as QEMU itself sees it. */
import { describe, expect, it } from 'vitest';
import { open } from '../../lib/index.js';
import { PlainBitmap, qemuDirty } from '../support/bitmap-oracle.js';
import { expectCleanByQemu, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern, Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;

async function flagsOf(path: string): Promise<Record<string, string[]>> {
  const info = await qemuInfo(path);
  const bitmaps = info['format-specific']?.data.bitmaps ?? [];
  return Object.fromEntries(bitmaps.map(({ name, flags }) => [name, flags]));
}

describe('enabled bitmaps', () => {
  const temp = useTempDir();

  async function imageWith(size: number, options: string, ...bitmaps: string[][]): Promise<string> {
    const path = temp('disk.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path, String(size)]);
    for (const args of bitmaps) await qemuImg(['bitmap', '--add', ...args.slice(1), path, args[0] ?? '']);
    return path;
  }

  it('record writes, zeroes, discards and compressed writes, each in its own granularity', async () => {
    const path = await imageWith(
      10 * MiB + 512,
      'cluster_size=64k',
      ['fine', '-g', '512'],
      ['coarse', '-g', '1M'],
    );
    const models = {
      fine: new PlainBitmap(10 * MiB + 512, 512),
      coarse: new PlainBitmap(10 * MiB + 512, MiB),
    };
    const note = (start: number, length: number): void => {
      models.fine.set(start, length);
      models.coarse.set(start, length);
    };
    const disk = await open(path, { mode: 'r+' });
    await disk.write(pattern(1, 1000), 70_000);
    note(70_000, 1000);
    await disk.writeZeroes(2 * MiB + 100, 5000);
    note(2 * MiB + 100, 5000);
    await disk.discard(3 * MiB, 65536);
    note(3 * MiB, 65536);
    await disk.write(Buffer.alloc(65536, 7), 5 * MiB, { compress: true });
    note(5 * MiB, 65536);
    await disk.write(pattern(2, 512), 10 * MiB);
    note(10 * MiB, 512);
    await disk.close();
    await expectCleanByQemu(path);
    expect(await flagsOf(path)).toEqual({ fine: ['auto'], coarse: ['auto'] });
    expect(await qemuDirty(path, 'fine')).toEqual(models.fine.ranges());
    expect(await qemuDirty(path, 'coarse')).toEqual(models.coarse.ranges());
  });

  it('are in use on the medium from the first change to the close, and untouched without one', async () => {
    const path = await imageWith(MiB, 'cluster_size=4k', ['on'], ['off', '--disable']);
    const untouched = await open(path, { mode: 'r+' });
    await untouched.read(Buffer.alloc(512), 0);
    expect(await flagsOf(path)).toEqual({ on: ['auto'], off: [] });
    await untouched.close();
    const disk = await open(path, { mode: 'r+' });
    await disk.write(pattern(1, 512), 0);
    expect(await flagsOf(path)).toEqual({ on: ['in-use', 'auto'], off: [] });
    await disk.close();
    expect(await flagsOf(path)).toEqual({ on: ['auto'], off: [] });
    expect(await qemuDirty(path, 'on')).toEqual([{ start: 0, length: 4096 }]);
    expect(await qemuDirty(path, 'off')).toEqual([]);
  });

  it('that nobody saved stay marked and are left alone', async () => {
    const path = await imageWith(MiB, 'cluster_size=4k', ['lost']);
    const abandoned = await open(path, { mode: 'r+', lock: false });
    await abandoned.write(pattern(1, 512), 0);
    await abandoned.flush();
    // As after a crash: another handle, while the first never gets to save.
    const next = await open(path, { mode: 'r+', lock: false });
    await next.write(pattern(2, 512), 65536);
    await next.close();
    expect(await flagsOf(path)).toEqual({ lost: ['in-use', 'auto'] });
    await expectCleanByQemu(path);
    await qemuImg(['bitmap', '--remove', path, 'lost']);
    await expectCleanByQemu(path);
  });

  it.each([
    ['cluster_size=512', 512, 3 * MiB],
    ['cluster_size=64k', 65536, 40 * MiB],
    ['cluster_size=2M', 4096, 40 * MiB],
    ['cluster_size=64k,extended_l2=on', 4096, 10 * MiB],
    ['cluster_size=64k,lazy_refcounts=on', 65536, 10 * MiB],
    ['cluster_size=512,refcount_bits=1', 512, 1 * MiB],
  ])(
    'stay true when QEMU and this package take turns (%s, granularity %i)',
    async (options, granularity, size) => {
      const path = await imageWith(size, options, ['b', '-g', String(granularity)]);
      const random = new Random(granularity + size);
      const model = new PlainBitmap(size, granularity);
      for (let round = 0; round < 4; round += 1) {
        const disk = await open(path, { mode: 'r+' });
        await Promise.all(
          Array.from({ length: 6 }, async () => {
            const length = random.between(1, 100) * 512;
            const start = random.below((size - length) / 512) * 512;
            model.set(start, length);
            const kind = random.below(3);
            if (kind === 0) await disk.writeZeroes(start, length);
            else if (kind === 1) await disk.discard(start, length);
            else await disk.write(pattern(round, length), start);
          }),
        );
        await disk.close();
        await expectCleanByQemu(path);
        const start = random.below(size / 65536 - 1) * 65536;
        await qemuIo(path, [`write -P 9 ${start} 64k`]);
        model.set(start, 65536);
        expect(await qemuDirty(path, 'b')).toEqual(model.ranges());
      }
    },
  );

  it('change their size with the disk as QEMU changes them', async () => {
    const size = 3 * MiB;
    const sizes = [3 * MiB + 512, 40 * MiB, 2 * MiB + 65536, MiB / 2 + 512, 9 * MiB];
    const add = [['on', '-g', '512'], ['off', '-g', '512', '--disable'], ['large']];
    const ours = await imageWith(size, 'cluster_size=512', ...add);
    await qemuIo(ours, ['write -P 1 0 64k', 'write -P 2 2M 1M']);
    const theirs = temp('theirs.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', theirs, String(size)]);
    for (const [name = '', ...args] of add) await qemuImg(['bitmap', '--add', ...args, theirs, name]);
    await qemuIo(theirs, ['write -P 1 0 64k', 'write -P 2 2M 1M']);
    await qemuImg(['bitmap', '--enable', ours, 'off']);
    await qemuImg(['bitmap', '--enable', theirs, 'off']);
    await qemuIo(ours, ['write -P 1 1M 4k']);
    await qemuIo(theirs, ['write -P 1 1M 4k']);
    await qemuImg(['bitmap', '--disable', ours, 'off']);
    await qemuImg(['bitmap', '--disable', theirs, 'off']);
    for (const next of sizes) {
      const disk = await open(ours, { mode: 'r+' });
      await disk.resize(next, { shrink: true });
      await disk.write(pattern(next, 512), next - 512);
      await disk.close();
      await qemuImg(['resize', '-q', '-f', 'qcow2', '--shrink', theirs, String(next)]);
      await qemuIo(theirs, [`write -P 1 ${next - 512} 512`]);
      await expectCleanByQemu(ours);
      expect(await flagsOf(ours)).toEqual(await flagsOf(theirs));
      for (const name of ['on', 'off', 'large']) {
        expect(await qemuDirty(ours, name), `${name} at ${next}`).toEqual(await qemuDirty(theirs, name));
      }
    }
  });

  it('of an overlay and of an image with an external data file record as well', async () => {
    await qemuImg(['create', '-q', '-f', 'raw', temp('base.raw'), '4M']);
    const overlay = temp('overlay.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', temp('base.raw'), '-F', 'raw', overlay]);
    const external = temp('external.qcow2');
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', `data_file=${temp('data.raw')}`, external, '4M']);
    for (const path of [overlay, external]) {
      await qemuImg(['bitmap', '--add', '-g', '64k', path, 'b']);
      const disk = await open(path, { mode: 'r+', resolve: 'any' });
      await disk.write(pattern(5, 100), MiB - 50);
      await disk.close();
      await expectCleanByQemu(path);
      expect(await qemuDirty(path, 'b')).toEqual([{ start: MiB - 65536, length: 2 * 65536 }]);
    }
  });
});
