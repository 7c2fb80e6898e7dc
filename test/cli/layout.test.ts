/** New images are those of qemu-img to the last byte: header, extensions, tables, and the length of the file. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parents } from '../support/temp-dir.js';
import { makeDirectory, qcow2, qemuImg, removeDirectories, tool } from './run.js';
import { linesOf, wordsOf } from './same.js';

/** What stands behind `create -q -f`. */
const same = linesOf(`
  qcow2 image 0
  qcow2 image 1
  qcow2 image 1000
  qcow2 image 64M
  qcow2 image 5G
  qcow2 image 1T
  qcow2 image 1023.5G
  qcow2 -o size=3M image
  qcow2 -o cluster_size=512 image 0
  qcow2 -o cluster_size=512 image 100M
  qcow2 -o cluster_size=4k image 1T
  qcow2 -o cluster_size=64k image 1M
  qcow2 -o cluster_size=2M image 0
  qcow2 -o cluster_size=2M image 1T
  qcow2 -o compat=0.10 image 1M
  qcow2 -o compat=0.10,cluster_size=4k image 5G
  qcow2 -o compat=0.10,cluster_size=512 image 1000
  qcow2 -o compat=0.10,cluster_size=2M image 1T
  qcow2 -o compat=v2,nocow=on image 3M
  qcow2 -o compat=v3,nocow=off image 3M
  qcow2 -o refcount_bits=1 image 1M
  qcow2 -o refcount_bits=8,cluster_size=2M image 64M
  qcow2 -o refcount_bits=64 image 1T
  qcow2 -o refcount_bits=64,cluster_size=512 image 1M
  qcow2 -o refcount_bits=2,cluster_size=1k image 5G
  qcow2 -o lazy_refcounts=on image 1M
  qcow2 -o lazy_refcounts=on,compression_type=zstd,cluster_size=8k image 1G
  qcow2 -o compression_type=zstd image 1M
  qcow2 -o compression_type=zstd,cluster_size=512 image 1M
  qcow2 -o compression_type=zlib image 1M
  qcow2 -o extended_l2=on image 1M
  qcow2 -o extended_l2=on,cluster_size=16k image 5G
  qcow2 -o extended_l2=on,cluster_size=2M,compression_type=zstd,lazy_refcounts=on,refcount_bits=32 image 1T
  qcow2 -o data_file=data image 1M
  qcow2 -o data_file=data,cluster_size=512 image 1000
  qcow2 -o data_file=data,extended_l2=on,lazy_refcounts=on image 3M
  qcow2 -o data_file=./a-data-file-with-a-longer-name image 1M
  qcow2 -o data_file=data,preallocation=metadata image 1M
  qcow2 -o data_file=data,preallocation=falloc image 1M
  qcow2 -o data_file=data,data_file_raw=on image 1M
  qcow2 -o data_file=data,data_file_raw=on,preallocation=metadata image 9M
  qcow2 -o data_file=data,data_file_raw=on,preallocation=falloc image 1M
  qcow2 -o data_file=data,data_file_raw=on,preallocation=full,refcount_bits=1 image 2M
  qcow2 -b ../base.raw -F raw image
  qcow2 -b ../base.raw -F raw image 9G
  qcow2 -b ../base.qcow2 -F qcow2 image
  qcow2 -b ../base.qcow2 -F qcow2 image 1M
  qcow2 -b ../base.raw -F raw -o compat=0.10 image
  qcow2 -b ../base.raw -F raw -o cluster_size=512 image
  qcow2 -b ../base.qcow2 -F qcow2 -o cluster_size=512,compat=0.10 image
  qcow2 -b ../base.qcow2 -F qcow2 -o extended_l2=on,lazy_refcounts=on,refcount_bits=8 image
  qcow2 -b ../base.qcow2 -F qcow2 -o data_file=data image
  qcow2 -b ../base.qcow2 -F qcow2 -o extended_l2=on,preallocation=metadata image
  qcow2 -b ../base.raw -F raw -o extended_l2=on,preallocation=metadata,cluster_size=16k image 9M
  qcow2 -u -b nämé,with;signs -F qcow2 image 1M
  qcow2 -u -b nbd://localhost/a-name-that-is-longer-than-the-others -F raw image 1M
  qcow2 -o preallocation=off image 4M
  qcow2 -o preallocation=metadata image 0
  qcow2 -o preallocation=metadata image 1000
  qcow2 -o preallocation=metadata image 4M
  qcow2 -o preallocation=metadata,compat=0.10 image 4M
  qcow2 -o preallocation=metadata,cluster_size=1k,refcount_bits=1 image 4M
  qcow2 -o preallocation=metadata,cluster_size=2M image 3M
  raw image 0
  raw image 1000
  raw -o preallocation=falloc image 1M
`);

/** What is laid out in another way, and why. */
const different: readonly { why: string; lines: readonly string[] }[] = [
  {
    why: 'a refcount block lies before the clusters it counts, with QEMU among them where it was first needed',
    lines: linesOf(`
      qcow2 -o refcount_bits=32,cluster_size=512 image 5G
      qcow2 -o preallocation=metadata,cluster_size=512 image 4M
      qcow2 -o preallocation=metadata,cluster_size=512,refcount_bits=64 image 4M
      qcow2 -o preallocation=metadata,cluster_size=4k,refcount_bits=32 image 16M
    `),
  },
  {
    why: 'the refcount table stays where it is, QEMU makes another for the reserved space',
    lines: linesOf(`
      qcow2 -o preallocation=falloc image 4M
      qcow2 -o preallocation=full image 4M
      qcow2 -o preallocation=falloc,compat=0.10 image 4M
      qcow2 -o preallocation=falloc,cluster_size=512 image 4M
      qcow2 -o preallocation=falloc,cluster_size=4k,lazy_refcounts=on image 4M
    `),
  },
  {
    why: 'preallocated subclusters are allocated: a first write changes no table, and what others write to a raw data file shows',
    lines: linesOf(`
      qcow2 -o preallocation=metadata,extended_l2=on image 4M
      qcow2 -o preallocation=falloc,extended_l2=on,cluster_size=16k image 4M
      qcow2 -o data_file=data,data_file_raw=on,extended_l2=on image 1M
    `),
  },
  {
    why: 'a raw data file is the disk, so it ends where the disk does, QEMU reserves a whole cluster',
    lines: linesOf('qcow2 -o data_file=data,data_file_raw=on,preallocation=falloc image 1000'),
  },
];

const all = [...same, ...different.flatMap(({ lines }) => lines)];
let [ours, theirs]: [string, string] = ['', ''];

beforeAll(() => {
  // Every image is flushed several times.
  [ours, theirs] = [makeDirectory(parents.memory), makeDirectory(parents.memory)];
  for (const root of [ours, theirs]) {
    tool('qemu-img', ['create', '-q', '-f', 'raw', 'base.raw', '3000256'], root);
    tool('qemu-img', ['create', '-q', '-f', 'qcow2', 'base.qcow2', '2M'], root);
    all.forEach((_, index) => mkdirSync(join(root, String(index))));
  }
  const quoted = (line: string): string =>
    wordsOf(line)
      .map((word) => `'${word}'`)
      .join(' ');
  const script = all.map((line, index) => `(cd ${index} && qemu-img create -q -f ${quoted(line)})`);
  execFileSync('sh', ['-e'], { cwd: theirs, input: script.join('\n') });
});
afterAll(() => removeDirectories(ours, theirs));

/** Makes our image of a line; gives the directories of both. */
async function made(line: string): Promise<{ here: string; there: string }> {
  const [here = '', there = ''] = [ours, theirs].map((root) => join(root, String(all.indexOf(line))));
  const outcome = await qcow2(['create', '-q', '-f', ...wordsOf(line)], here);
  expect(outcome).toEqual({ code: 0, stdout: '', stderr: '' });
  expect(readdirSync(here)).toEqual(readdirSync(there));
  return { here, there };
}

/** The lengths of two files, and the first byte that differs; null when none does. */
function firstDifference(a: string, b: string): { lengths: [number, number]; at: number } | null {
  const [left, right] = [readFileSync(a), readFileSync(b)];
  if (left.equals(right)) return null;
  const at = left.findIndex((byte, index) => byte !== right[index]);
  return { lengths: [left.length, right.length], at: at < 0 ? left.length : at };
}

describe('byte for byte what qemu-img makes', () => {
  it.each(same)('%s', async (line) => {
    const { here, there } = await made(line);
    for (const file of readdirSync(there)) {
      expect(firstDifference(join(here, file), join(there, file))).toBeNull();
    }
  });
});

describe.each(different)('sound, no longer, but not the same: $why', ({ lines }) => {
  it.each(lines)('%s', async (line) => {
    const { here, there } = await made(line);
    const found = readdirSync(there).flatMap(
      (file) => firstDifference(join(here, file), join(there, file)) ?? [],
    );
    expect(found.length).toBe(1);
    for (const { lengths } of found) expect(lengths[0]).toBeLessThanOrEqual(lengths[1]);
    expect(await qemuImg(['check', '-q', 'image'], here)).toEqual({ code: 0, stdout: '', stderr: '' });
  });
});
