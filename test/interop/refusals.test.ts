/** What qemu-img refuses to do with snapshots, bitmaps and chains is refused here with a code, and leaves the image as it is. */
import { copyFile, readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { open, type Qcow2 } from '../../lib/index.js';
import { expectCleanByQemu, qemuImg, qemuIo } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

interface Refusal {
  readonly name: string;
  /** Options of `qemu-img create`; `{}` stands for the test's directory. */
  readonly create?: string;
  /** qemu-img commands that come before. */
  readonly before?: readonly string[];
  /** The qemu-img command that fails. */
  readonly qemu: string;
  readonly ours: (disk: Qcow2) => Promise<unknown>;
  readonly code: string;
  /** The file may change on the way, if it is as good as before. */
  readonly rewrites?: boolean;
}

const long = 'x'.repeat(1024);
const conflict = 'ERR_QCOW2_CONFLICT';
const missing = 'ERR_QCOW2_NOT_FOUND';
const range = 'ERR_OUT_OF_RANGE';
const bitmap = ['bitmap --add {}/disk b'];
const snapshot = ['snapshot -c s {}/disk'];

const refusals: readonly Refusal[] = [
  {
    name: 'a snapshot with an external data file',
    create: 'data_file={}/data',
    qemu: 'snapshot -c s {}/disk',
    ours: (disk) => disk.snapshots.create({ name: 's' }),
    code: conflict,
  },
  {
    name: 'a snapshot of clusters that are counted with one bit',
    create: 'refcount_bits=1',
    qemu: 'snapshot -c s {}/disk',
    ours: (disk) => disk.snapshots.create({ name: 's' }),
    code: 'ERR_QCOW2_LIMIT',
    rewrites: true,
  },
  {
    name: 'applying a snapshot under bitmaps',
    before: [...snapshot, ...bitmap],
    qemu: 'snapshot -a s {}/disk',
    ours: (disk) => disk.snapshots.apply('s'),
    code: conflict,
  },
  {
    name: 'applying a snapshot that is not there',
    before: snapshot,
    qemu: 'snapshot -a x {}/disk',
    ours: (disk) => disk.snapshots.apply('x'),
    code: missing,
  },
  {
    name: 'deleting a snapshot that is not there',
    before: snapshot,
    qemu: 'snapshot -d x {}/disk',
    ours: (disk) => disk.snapshots.delete('x'),
    code: missing,
  },
  {
    name: 'a bitmap in version 2',
    create: 'compat=0.10',
    qemu: 'bitmap --add {}/disk b',
    ours: (disk) => disk.bitmaps.create({ name: 'b' }),
    code: conflict,
  },
  {
    name: 'a second bitmap of a name',
    before: bitmap,
    qemu: 'bitmap --add {}/disk b',
    ours: (disk) => disk.bitmaps.create({ name: 'b' }),
    code: conflict,
  },
  ...['1000', '256', '4G'].map((granularity) => ({
    name: `a bitmap with a granularity of ${granularity}`,
    qemu: `bitmap --add -g ${granularity} {}/disk b`,
    ours: (disk: Qcow2) =>
      disk.bitmaps.create({
        name: 'b',
        granularity: granularity === '4G' ? 2 ** 32 : Number(granularity),
      }),
    code: range,
  })),
  {
    name: 'a bitmap with a name of 1024 bytes',
    qemu: `bitmap --add {}/disk ${long}`,
    ours: (disk) => disk.bitmaps.create({ name: long }),
    code: 'ERR_INVALID_ARG_VALUE',
  },
  ...(['remove', 'clear', 'enable', 'disable'] as const).map((job) => ({
    name: `${job} of a bitmap that is not there`,
    before: bitmap,
    qemu: `bitmap --${job} {}/disk x`,
    ours: (disk: Qcow2) => disk.bitmaps[job]('x'),
    code: missing,
  })),
  {
    name: 'merging a bitmap that is not there',
    before: bitmap,
    qemu: 'bitmap --merge x {}/disk b',
    ours: (disk) => disk.bitmaps.merge('b', ['x']),
    code: missing,
  },
  ...(['extended_l2=on', 'data_file={}/data'] as const).map((create) => ({
    name: `version 2 with ${create}`,
    create,
    qemu: 'amend -o compat=0.10 {}/disk',
    ours: (disk: Qcow2) => disk.amend({ version: 2 }),
    code: conflict,
  })),
  {
    name: 'version 2 with refcounts of 8 bits',
    create: 'refcount_bits=8',
    qemu: 'amend -o compat=0.10 {}/disk',
    ours: (disk) => disk.amend({ version: 2 }),
    code: conflict,
  },
  {
    name: 'lazy refcounts in version 2',
    create: 'compat=0.10',
    qemu: 'amend -o lazy_refcounts=on {}/disk',
    ours: (disk) => disk.amend({ lazyRefcounts: true }),
    code: conflict,
  },
  {
    name: 'refcounts of 32 bits in version 2',
    create: 'compat=0.10',
    qemu: 'amend -o refcount_bits=32 {}/disk',
    ours: (disk) => disk.amend({ refcountBits: 32 }),
    code: conflict,
  },
  ...[5, 128].map((bits) => ({
    name: `refcounts of ${bits} bits`,
    qemu: `amend -o refcount_bits=${bits} {}/disk`,
    ours: (disk: Qcow2) => disk.amend({ refcountBits: bits }),
    code: range,
  })),
  {
    name: 'refcounts of one bit under a snapshot',
    before: snapshot,
    qemu: 'amend -o refcount_bits=1 {}/disk',
    ours: (disk) => disk.amend({ refcountBits: 1 }),
    code: 'ERR_QCOW2_LIMIT',
  },
  {
    name: 'a data file for an image that has none',
    qemu: 'amend -o data_file={}/data {}/disk',
    ours: (disk) => disk.amend({ dataFile: 'data' }),
    code: conflict,
  },
  ...[512, 2048].map((size) => ({
    name: `${size} KiB for a version 2 image with snapshots`,
    create: 'compat=0.10',
    before: snapshot,
    qemu: `resize --shrink {}/disk ${size}k`,
    ours: (disk: Qcow2) => disk.resize(size * 1024, { shrink: true }),
    code: conflict,
  })),
  {
    name: 'the same by amending',
    create: 'compat=0.10',
    before: snapshot,
    qemu: 'amend -o size=2M {}/disk',
    ours: (disk) => disk.amend({ size: 2 ** 21 }),
    code: conflict,
  },
  {
    name: 'a disk smaller than its data',
    qemu: 'resize {}/disk 512',
    ours: (disk) => disk.resize(512),
    code: 'ERR_QCOW2_DATA_LOSS',
  },
  {
    name: 'a rebase onto the image itself',
    qemu: 'rebase -b {}/disk -F qcow2 {}/disk',
    ours: (disk) => disk.rebase({ name: 'disk', format: 'qcow2' }),
    code: 'ERR_QCOW2_REFERENCE',
  },
  {
    name: 'a rebase onto what stands on the image',
    before: ['create -q -f qcow2 -b {}/disk -F qcow2 {}/above'],
    qemu: 'rebase -b {}/above -F qcow2 {}/disk',
    ours: (disk) => disk.rebase({ name: 'above', format: 'qcow2' }),
    code: 'ERR_QCOW2_REFERENCE',
  },
  {
    name: 'a rebase onto nothing that is there',
    qemu: 'rebase -b {}/nowhere -F qcow2 {}/disk',
    ours: (disk) => disk.rebase({ name: 'nowhere', format: 'qcow2' }),
    code: 'ERR_QCOW2_REFERENCE',
  },
  ...(['safe', 'unsafe'] as const).map((mode) => ({
    name: `a backing file (${mode}) for a raw data file`,
    create: 'data_file={}/data,data_file_raw=on',
    before: ['create -q -f raw {}/base 1M'],
    qemu: `rebase ${mode === 'safe' ? '' : '-u '}-b {}/base -F raw {}/disk`,
    ours: (disk: Qcow2) => disk.rebase({ name: 'base', format: 'raw' }, { mode }),
    code: conflict,
  })),
  {
    name: 'a commit of an image that stands on nothing',
    qemu: 'commit {}/disk',
    ours: (disk) => disk.commit(),
    code: conflict,
  },
  {
    name: 'a commit deeper than the chain goes',
    before: ['create -q -f raw {}/base 1M', 'rebase -u -b {}/base -F raw {}/disk'],
    qemu: 'commit -b {}/nowhere {}/disk',
    ours: (disk) => disk.commit({ base: 2 }),
    code: range,
  },
];

describe('refused by qemu-img and here', () => {
  const temp = useTempDir();

  it.each(refusals)('$name', async ({ create, before = [], qemu, ours, code, rewrites = false }) => {
    const inDirectory = (command: string): string[] =>
      command.split(' ').map((word) => word.replaceAll('{}', temp()));
    const path = temp('disk');
    const options = create === undefined ? [] : ['-o', ...inDirectory(create)];
    await qemuImg(['create', '-q', '-f', 'qcow2', ...options, path, '1M']);
    await qemuIo(path, ['write -P 1 100k 300k']);
    for (const command of before) await qemuImg(inDirectory(command));
    await copyFile(path, temp('kept'));
    const { exit } = await qemuImg(inDirectory(qemu), { expectExit: null });
    expect(exit, 'qemu-img').toBe(1);
    await copyFile(temp('kept'), path);
    const disk = await open(path, { mode: 'r+', resolve: 'same-directory' });
    await expect(ours(disk)).rejects.toMatchObject({ code });
    await disk.close();
    if (!rewrites) expect((await readFile(path)).equals(await readFile(temp('kept')))).toBe(true);
    await expectCleanByQemu(path);
    await qemuIo(path, ['read -P 1 100k 300k'], { flags: ['-r'] });
  });
});
