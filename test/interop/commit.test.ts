/** Committing into a file below does what qemu-img commit does, keeps the content, and can be stopped anywhere. */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open, openDisk, type Disk } from '../../lib/index.js';
import { expectCleanByQemu, holdByQemu, qemuContent, qemuImg, qemuIo, qemuMap } from '../support/oracle.js';
import { makeChain, randomChanges, type ChainFile } from '../support/random-chain.js';
import { Random } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 1024 * 1024;

const chains: [name: string, files: ChainFile[]][] = [
  [
    'qcow2 on qcow2',
    [
      { format: 'qcow2', size: 3 * MiB },
      { format: 'qcow2', size: 3 * MiB },
    ],
  ],
  [
    'qcow2 on raw',
    [
      { format: 'raw', size: 3 * MiB },
      { format: 'qcow2', size: 3 * MiB },
    ],
  ],
  [
    'a larger disk on raw',
    [
      { format: 'raw', size: MiB },
      { format: 'qcow2', size: 3 * MiB + 512 },
    ],
  ],
  [
    'a larger disk on qcow2',
    [
      { format: 'qcow2', size: MiB + 512 },
      { format: 'qcow2', size: 3 * MiB },
    ],
  ],
  [
    'a smaller disk',
    [
      { format: 'qcow2', size: 4 * MiB },
      { format: 'qcow2', size: 2 * MiB },
    ],
  ],
  [
    'extended L2 on small clusters',
    [
      { format: 'qcow2', size: 2 * MiB, options: 'cluster_size=512' },
      { format: 'qcow2', size: 2 * MiB, options: 'extended_l2=on' },
    ],
  ],
  [
    'version 2 on version 2',
    [
      { format: 'qcow2', size: 2 * MiB, options: 'compat=0.10,cluster_size=4k' },
      { format: 'qcow2', size: 2 * MiB, options: 'compat=0.10' },
    ],
  ],
  [
    'three layers',
    [
      { format: 'raw', size: 2 * MiB },
      { format: 'qcow2', size: MiB },
      { format: 'qcow2', size: 3 * MiB },
    ],
  ],
];

async function contentOf(disk: Disk): Promise<Buffer> {
  const bytes = Buffer.alloc(disk.size);
  await disk.read(bytes, 0);
  return bytes;
}

async function checkClean(files: readonly ChainFile[], paths: readonly string[]): Promise<void> {
  for (const [index, file] of paths.entries()) {
    if (files[index]?.format === 'qcow2') await expectCleanByQemu(file);
  }
}

describe('commit', () => {
  it.each(chains)('does what qemu-img commit does: %s', async (_name, files) => {
    const ours = await makeChain(path, 'ours', files, 7);
    const theirs = await makeChain(path, 'theirs', files, 7);
    const [top = ''] = ours.slice(-1);
    const [theirTop = ''] = theirs.slice(-1);
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.commit();
    expect((await contentOf(disk)).equals(before)).toBe(true);
    await disk.close();
    await qemuImg(['commit', '-q', '-f', 'qcow2', theirTop]);
    await checkClean(files, ours);
    for (const [index, file] of ours.entries()) {
      const { format = 'qcow2' } = files[index] ?? {};
      const expected = await qemuContent(theirs[index] ?? '', format);
      expect((await qemuContent(file, format)).equals(expected), `layer ${index}`).toBe(true);
    }
    expect((await qemuMap(top)).every(({ depth, present }) => depth > 0 || !present)).toBe(true);
    const disk2 = await open(top, { resolve: 'any' });
    for await (const extent of disk2.extents({ layers: 'self' })) expect(extent.type).toBe('unallocated');
    await disk2.close();
  });

  it('goes on working after a commit, round after round', async () => {
    const files: ChainFile[] = [
      { format: 'qcow2', size: 2 * MiB },
      { format: 'qcow2', size: 2 * MiB },
    ];
    const paths = await makeChain(path, 'x', files, 3);
    const [, top = ''] = paths;
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    const model = await contentOf(disk);
    for (let round = 1; round <= 4; round++) {
      const at = round * 300_000;
      model.fill(round, at, at + 100_000);
      await disk.write(model.subarray(at, at + 100_000), at);
      model.fill(0, at + 50_000, at + 150_000);
      await disk.writeZeroes(at + 50_000, 100_000);
      await disk.commit();
      expect((await contentOf(disk)).equals(model)).toBe(true);
    }
    await disk.close();
    expect((await qemuContent(top)).equals(model)).toBe(true);
    expect((await qemuContent(paths[0] ?? '')).equals(model)).toBe(true);
    await checkClean(files, paths);
  });

  it('commits past layers in between, which keeps this image valid', async () => {
    for (const seed of [1, 2, 3]) {
      const files: ChainFile[] = [
        { format: seed === 1 ? 'raw' : 'qcow2', size: 2 * MiB },
        { format: 'qcow2', size: seed === 2 ? MiB : 2 * MiB },
        { format: 'qcow2', size: 2 * MiB, options: 'cluster_size=4k' },
        { format: 'qcow2', size: 2 * MiB },
      ];
      const paths = await makeChain(path, `s${seed}-`, files, seed);
      const [base = '', , , top = ''] = paths;
      const before = await qemuContent(top);
      const disk = await open(top, { mode: 'r+', resolve: 'any' });
      await expect(disk.commit({ base: 3, empty: true })).rejects.toThrow(TypeError);
      await disk.commit({ base: 3 });
      await disk.close();
      await checkClean(files, paths);
      expect((await qemuContent(top)).equals(before)).toBe(true);
      expect((await qemuContent(base, files[0]?.format)).equals(before)).toBe(true);
    }
  });

  it('keeps snapshots of the image', async () => {
    const files: ChainFile[] = [
      { format: 'raw', size: 2 * MiB },
      { format: 'qcow2', size: 2 * MiB },
    ];
    const paths = await makeChain(path, 'x', files, 5);
    const [, top = ''] = paths;
    await qemuImg(['snapshot', '-c', 'one', top]);
    await qemuIo(top, randomChanges(new Random(9), 2 * MiB, 5));
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await disk.commit();
    await disk.close();
    await checkClean(files, paths);
    expect((await qemuContent(top)).equals(before)).toBe(true);
    await qemuImg(['snapshot', '-a', 'one', top]);
    await expectCleanByQemu(top);
  });

  it('leaves both images valid when it is stopped, and completes when done again', async () => {
    const files: ChainFile[] = [
      { format: 'qcow2', size: 16 * MiB },
      { format: 'qcow2', size: 16 * MiB },
    ];
    const paths = await makeChain(path, 'x', files, 11);
    const [base = '', top = ''] = paths;
    await qemuIo(top, ['write -P 200 1M 12M']);
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    // Batches of a MiB, and pieces of one: a checkpoint or a pace needs them so small.
    const ways = [{ checkpointBytes: MiB }, { bytesPerSecond: 2 ** 50 }];
    for (const [limit, way] of [1, 4, 8].flatMap((each) => ways.map((options) => [each, options] as const))) {
      const controller = new AbortController();
      const reason = new Error('enough');
      let seen = 0;
      const onProgress = (): void => {
        seen++;
        if (seen === limit) controller.abort(reason);
      };
      const stopped = disk.commit({ signal: controller.signal, onProgress, ...way });
      await expect(stopped).rejects.toBe(reason);
      expect((await contentOf(disk)).equals(before)).toBe(true);
      await disk.flush();
      await qemuImg(['check', '-U', '-f', 'qcow2', top]);
    }
    const progress: number[] = [];
    await disk.commit({ onProgress: ({ done, total }) => void progress.push(done / total) });
    expect(progress).toEqual(progress.toSorted((a, b) => a - b));
    expect(progress.at(-1)).toBe(1);
    await disk.close();
    await checkClean(files, paths);
    expect((await qemuContent(base)).equals(before)).toBe(true);
    expect((await qemuContent(top)).equals(before)).toBe(true);
  });

  it('refuses when there is nothing below, and when someone else uses what is', async () => {
    const alone = await create(path('alone'), MiB);
    await expect(alone.commit()).rejects.toThrow(expect.objectContaining({ code: 'ERR_QCOW2_CONFLICT' }));
    await alone.close();
    const paths = await makeChain(
      path,
      'x',
      [
        { format: 'qcow2', size: MiB },
        { format: 'qcow2', size: MiB },
      ],
      1,
    );
    const [base = '', top = ''] = paths;
    const before = await qemuContent(top);
    const readOnly = await open(top, { resolve: 'any' });
    await expect(readOnly.commit()).rejects.toThrow(expect.objectContaining({ code: 'ERR_QCOW2_READ_ONLY' }));
    await readOnly.close();
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    await expect(disk.commit({ base: 2 })).rejects.toThrow(RangeError);
    await expect(disk.commit({ base: 0 })).rejects.toThrow(RangeError);
    const held = await holdByQemu(base, { readOnly: true });
    await expect(disk.commit()).rejects.toThrow(expect.objectContaining({ code: 'ERR_QCOW2_LOCKED' }));
    // The file below was closed on the way, and is open again.
    expect((await contentOf(disk)).equals(before)).toBe(true);
    await held.release();
    await disk.commit();
    await disk.close();
    expect((await qemuContent(base)).equals(before)).toBe(true);
  });

  it('lets changes wait, and makes them after it', async () => {
    const paths = await makeChain(
      path,
      'x',
      [
        { format: 'raw', size: MiB },
        { format: 'qcow2', size: MiB },
      ],
      2,
    );
    const [base = '', top = ''] = paths;
    const before = await qemuContent(top);
    const disk = await open(top, { mode: 'r+', resolve: 'any' });
    const data = Buffer.alloc(70_000, 0x5a);
    let write: Promise<void> | undefined;
    let during: Promise<Buffer> | undefined;
    await disk.commit({
      onProgress: () => {
        write ??= disk.write(data, 1000);
        during ??= contentOf(disk);
      },
    });
    expect((await during)?.equals(before)).toBe(true);
    await write;
    const after = await contentOf(disk);
    await disk.close();
    expect((await readFile(base)).equals(before)).toBe(true);
    before.set(data, 1000);
    expect(after.equals(before)).toBe(true);
    const { disk: again } = await openDisk(top, { resolve: 'any' });
    expect((await contentOf(again)).equals(before)).toBe(true);
    await again.close();
  });
});
