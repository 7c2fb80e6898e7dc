/** Sound images of every kind: check counts what qemu-img check counts, and finds nothing. */
import { copyFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open } from '../../lib/index.js';
import { qemuCheck, qemuCompare, qemuImg, qemuIo, type QemuCheck } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const MiB = 1024 * 1024;
const secret = 'geheim';

interface Case {
  name: string;
  make: (path: string) => Promise<void>;
  encrypted?: boolean;
}

const scattered = [
  'write -P 1 0 3M',
  'write -P 2 9M 70k',
  'write -P 3 5000k 513k',
  'write -z 1M 512k',
  'discard 2M 128k',
];

function fromQemu(name: string, options: string, more?: (path: string) => Promise<unknown>): Case {
  return {
    name,
    make: async (path) => {
      await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path, '32M']);
      await qemuIo(path, scattered);
      await more?.(path);
    },
  };
}

const cases: Case[] = [
  fromQemu('64 KiB', 'cluster_size=64k'),
  fromQemu('512 bytes', 'cluster_size=512'),
  fromQemu('2 MiB', 'cluster_size=2M'),
  fromQemu('version 2', 'compat=0.10'),
  fromQemu('refcounts of 1 bit', 'refcount_bits=1'),
  fromQemu('refcounts of 32 bits', 'refcount_bits=32,cluster_size=4k'),
  fromQemu('extended L2 entries', 'extended_l2=on'),
  fromQemu('preallocated metadata', 'preallocation=metadata,cluster_size=4k'),
  fromQemu('lazy refcounts', 'lazy_refcounts=on'),
  fromQemu('compressed', 'cluster_size=64k', (path) =>
    qemuIo(path, ['write -c -P 9 16M 64k', 'write -c -P 8 17M 64k', 'write -c -P 7 18M 64k']),
  ),
  fromQemu('zstd', 'compression_type=zstd', (path) =>
    qemuIo(path, ['write -c -P 9 16M 64k', 'write -c -P 8 17M 64k']),
  ),
  fromQemu('snapshots', 'cluster_size=4k', async (path) => {
    for (const name of ['a', 'b', 'c']) {
      await qemuImg(['snapshot', '-c', name, path]);
      await qemuIo(path, ['write -P 5 1M 900k']);
    }
    await qemuImg(['snapshot', '-d', 'b', path]);
  }),
  fromQemu('bitmaps', 'cluster_size=64k', async (path) => {
    await qemuImg(['bitmap', '--add', '-g', '512', path, 'fine']);
    await qemuImg(['bitmap', '--add', path, 'coarse']);
    await qemuIo(path, ['write -P 5 1M 900k']);
  }),
  {
    name: 'an external data file',
    make: async (path) => {
      await qemuImg(['create', '-q', '-f', 'qcow2', '-o', `data_file=${path}.raw`, path, '32M']);
      await qemuIo(path, scattered);
    },
  },
  {
    name: 'LUKS',
    make: async (path) => {
      const disk = await create(path, 32 * MiB, { encryption: { secret, iterTimeMs: 10 } });
      await disk.write(Buffer.alloc(MiB, 1), 3 * MiB);
      await disk.close();
    },
    encrypted: true,
  },
  {
    name: 'written by this package, compressed and plain in turn',
    make: async (path) => {
      const disk = await create(path, 32 * MiB, { clusterSize: 65536, refcountBits: 8 });
      for (let at = 0; at < 4 * MiB; at += 65536) {
        await disk.write(Buffer.alloc(65536, at / 65536), at, { compress: at % 131072 === 0 });
      }
      await disk.write(Buffer.alloc(65536, 255), 65536 * 3);
      await disk.discard(MiB, 500_000);
      await disk.close();
    },
  },
];

describe.each(cases)('an image: $name', ({ make, encrypted }) => {
  it('is counted as by qemu-img check', async () => {
    const path = temp('image.qcow2');
    await make(path);
    const disk = await open(path, { resolve: 'any' });
    const { findings, ...report } = await disk.check();
    await disk.close();
    const theirs = await checkByQemu(path, encrypted);
    expect(findings).toEqual([]);
    expect(report).toEqual({
      leaks: 0,
      corruptions: 0,
      checkErrors: 0,
      leaksFixed: 0,
      corruptionsFixed: 0,
      imageEndOffset: theirs['image-end-offset'],
      totalClusters: theirs['total-clusters'],
      allocatedClusters: theirs['allocated-clusters'] ?? 0,
      compressedClusters: theirs['compressed-clusters'] ?? 0,
      fragmentedClusters: theirs['fragmented-clusters'] ?? 0,
    });
  });

  it('keeps its content and stays sound when its refcounts are rebuilt', async () => {
    const path = temp('image.qcow2');
    await make(path);
    const before = temp('before.qcow2');
    await copyFile(path, before);
    const disk = await open(path, { mode: 'r+', forRepair: true, resolve: 'any' });
    await disk.rebuildRefcounts();
    await disk.close();
    expect(await checkByQemu(path, encrypted)).toMatchObject({ exit: 0, 'check-errors': 0 });
    if (encrypted !== true) expect(await qemuCompare(before, path)).toMatchObject({ same: true });
  });
});

async function checkByQemu(path: string, encrypted = false): Promise<Partial<QemuCheck>> {
  if (!encrypted) return qemuCheck(path);
  const options = `driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=${path}`;
  const object = `secret,id=s,data=${secret}`;
  const { stdout } = await qemuImg(['check', '--output=json', '--object', object, '--image-opts', options]);
  return { exit: 0, ...(JSON.parse(stdout) as Partial<QemuCheck>) };
}
