/** Measuring gives the very numbers of qemu-img measure, and no image gets larger than they say. */
import { stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import {
  convert,
  create,
  measure,
  open,
  openDisk,
  type CreateOptions,
  type Measurement,
  type MeasureOptions,
} from '../../lib/index.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();

async function byQemu(source: readonly string[], options: string, format = 'qcow2'): Promise<Measurement> {
  const flags = options === '' ? [] : ['-o', options];
  const secret = options.includes('luks') ? ['--object', 'secret,id=key,data=geheim'] : [];
  const { stdout } = await qemuImg([
    'measure',
    '--output=json',
    ...secret,
    '-O',
    format,
    ...flags,
    ...source,
  ]);
  const said = JSON.parse(stdout) as { required: number; 'fully-allocated': number; bitmaps?: number };
  return { required: said.required, fullyAllocated: said['fully-allocated'], bitmaps: said.bitmaps ?? null };
}

const variants: [name: string, qemu: string, own: MeasureOptions & CreateOptions][] = [
  ['defaults', '', {}],
  ['512-byte clusters', 'cluster_size=512', { clusterSize: 512 }],
  ['2 MiB clusters', 'cluster_size=2M', { clusterSize: 2 ** 21 }],
  ['version 2', 'compat=0.10', { version: 2 }],
  ['1-bit refcounts', 'refcount_bits=1', { refcountBits: 1 }],
  ['64-bit refcounts', 'refcount_bits=64,cluster_size=4k', { refcountBits: 64, clusterSize: 4096 }],
  ['extended L2', 'extended_l2=on', { extendedL2: true }],
  ['metadata preallocation', 'preallocation=metadata', { preallocation: 'metadata' }],
  ['falloc preallocation', 'preallocation=falloc', { preallocation: 'falloc' }],
  ['full preallocation', 'preallocation=full', { preallocation: 'full' }],
  ['zstd', 'compression_type=zstd', { compressionType: 'zstd' }],
  ['a data file', 'data_file=/nowhere', { dataFile: { name: '/nowhere' } }],
  [
    'a backing file',
    'backing_file=/nowhere,backing_fmt=raw',
    { backing: { name: '/nowhere', format: 'raw' } },
  ],
];

describe('measure', () => {
  it.each(variants)('counts empty disks as qemu-img does: %s', async (_name, qemu, own) => {
    for (const size of [0, 1, 511, 512, 65536, 65537, 2 ** 29 - 1, 2 ** 29 + 512, 10 ** 9, 2 ** 33]) {
      const expected = await byQemu(['--size', `${size}`], qemu);
      expect(await measure({ size }, own), `${size} bytes`).toEqual(expected);
    }
  });

  it('counts huge disks as qemu-img does', async () => {
    for (const size of [2 ** 42, 2 ** 47, 2 ** 49 + 12345]) {
      expect(await measure({ size: BigInt(size) })).toEqual(await byQemu(['--size', `${size}`], ''));
      const large = { clusterSize: 2 ** 21 };
      expect(await measure({ size }, large)).toEqual(await byQemu(['--size', `${size}`], 'cluster_size=2M'));
    }
  });

  it('refuses disks that are too large for their clusters, as creating one does', async () => {
    const refused = expect.objectContaining({ code: 'ERR_QCOW2_LIMIT' }) as Error;
    await expect(measure({ size: 2 ** 40 }, { clusterSize: 512 })).rejects.toThrow(refused);
    await expect(create(path('x'), 2 ** 40, { clusterSize: 512 })).rejects.toThrow(refused);
  });

  it('refuses options that do not go together', async () => {
    await expect(measure({ size: 512 }, { version: 2, extendedL2: true })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_QCOW2_CONFLICT' }),
    );
    await expect(measure({ size: 512 }, { clusterSize: 1000 })).rejects.toThrow(RangeError);
  });

  it.each([
    ['plain', 'qcow2', ''],
    ['extended L2', 'qcow2', 'extended_l2=on'],
    ['small clusters', 'qcow2', 'cluster_size=512'],
    ['raw', 'raw', ''],
  ] as const)('counts the data of an image as qemu-img does: %s', async (_name, format, create) => {
    const file = path('a');
    await qemuImg(['create', '-f', format, ...(create === '' ? [] : ['-o', create]), file, '40000001']);
    const writes = [
      'write -P 1 0 1',
      'write -P 1 100k 200k',
      'write 5M 1500k',
      'write -z 20M 1M',
      'write 38M 512',
    ];
    await qemuIo(file, writes, { format });
    const { disk } = await openDisk(file, { format });
    for (const [name, qemu, own] of variants) {
      expect(await measure(disk, own), name).toEqual(await byQemu(['-f', format, file], qemu));
    }
    await disk.close();
  });

  it('counts the LUKS header as qemu-img does', async () => {
    const options =
      'cluster_size=1M,encrypt.format=luks,encrypt.key-secret=key,encrypt.cipher-alg=aes-128,encrypt.hash-alg=sha512';
    const own = { clusterSize: 2 ** 20, encryption: { cipherAlg: 'aes-128' } };
    expect(await measure({ size: 10 ** 9 }, own)).toEqual(await byQemu(['--size', '1000000000'], options));
  });

  it('counts what shows through from a backing file', async () => {
    await qemuImg(['create', '-f', 'qcow2', path('base'), '10M']);
    await qemuIo(path('base'), ['write 1M 1M', 'write 9M 1M']);
    await qemuImg(['create', '-f', 'qcow2', '-b', path('base'), '-F', 'qcow2', path('top'), '20M']);
    await qemuIo(path('top'), ['write -z 1M 512k', 'write 15M 1M']);
    const disk = await open(path('top'), { resolve: 'any' });
    expect(await measure(disk)).toEqual(await byQemu(['-f', 'qcow2', path('top')], ''));
    await disk.close();
  });

  it('counts persistent bitmaps as qemu-img does', async () => {
    const file = path('a');
    await qemuImg(['create', '-f', 'qcow2', file, '1000000000']);
    const expectSame = async (): Promise<void> => {
      const disk = await open(file);
      for (const [, qemu, own] of variants)
        expect(await measure(disk, own)).toEqual(await byQemu([file], qemu));
      await disk.close();
    };
    await qemuImg(['bitmap', '--add', file, 'daily']);
    await expectSame();
    await qemuImg(['bitmap', '--add', '-g', '512', file, 'ß']);
    await qemuImg(['bitmap', '--add', '--disable', '-g', '2G', file, 'x'.repeat(1000)]);
    await expectSame();
  });

  it('measures raw images', async () => {
    await qemuImg(['create', '-f', 'qcow2', path('a'), '1000001']);
    const disk = await open(path('a'));
    expect(await measure(disk, { format: 'raw' })).toEqual(await byQemu([path('a')], '', 'raw'));
    expect(await measure({ size: 3 }, { format: 'raw' })).toEqual(await byQemu(['--size', '3'], '', 'raw'));
    await disk.close();
  });

  it('says no less than an image then takes', async () => {
    for (const preallocation of ['metadata', 'full'] as const) {
      const { fullyAllocated } = await measure({ size: 50_000_000 }, { preallocation });
      const disk = await create(path(preallocation), 50_000_000, { preallocation });
      await disk.close();
      expect((await stat(path(preallocation))).size).toBeLessThanOrEqual(fullyAllocated);
    }
  });

  it.each(variants.filter(([, , { backing }]) => backing === undefined))(
    'says no less than converting then takes: %s',
    async (_name, _qemu, own) => {
      const size = 600 * 2 ** 20 + 12345;
      const file = path('source.raw');
      await qemuImg(['create', '-f', 'raw', file, `${size}`]);
      const writes = ['write -P 1 0 100k', 'write -P 0 1M 12M', 'write -P 2 14M 2M', 'write -P 3 599M 1'];
      await qemuIo(file, writes, { format: 'raw' });
      const { disk } = await openDisk(file, { format: 'raw' });
      const { dataFile, ...create } = own;
      const options = dataFile === undefined ? create : { ...create, dataFile: { name: path('data') } };
      const { required, fullyAllocated } = await measure(disk, own);
      await convert(disk, path('copy'), { targetFormat: 'qcow2', create: options });
      const taken = (await stat(path('copy'))).size;
      const isMeasured = own.preallocation === undefined || own.preallocation === 'off';
      expect(taken).toBeLessThanOrEqual(isMeasured ? required : fullyAllocated);
      await convert(disk, path('raw'), { targetFormat: 'raw' });
      expect((await stat(path('raw'))).size).toBe((await measure(disk, { format: 'raw' })).required);
      await disk.close();
    },
  );

  it('is exact where the data is and all tables are used', async () => {
    for (const own of [{}, { clusterSize: 2 ** 21 }, { version: 2 }, { refcountBits: 1 }] as const) {
      const disk = await create(path('a'), 600 * 2 ** 20);
      for (let at = 0; at < disk.size; at += 70 * 2 ** 20) await disk.write(Buffer.alloc(200_000, 1), at);
      const { required } = await measure(disk, own);
      await convert(disk, path('copy'), { targetFormat: 'qcow2', create: own });
      expect((await stat(path('copy'))).size, JSON.stringify(own)).toBe(required);
      await disk.close();
    }
  });

  it('stops with the reason of its signal', async () => {
    const disk = await create(path('a'), 2 ** 30);
    const reason = new Error('enough');
    await expect(measure(disk, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await disk.close();
  });
});
