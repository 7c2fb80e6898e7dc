/** What this package does not know in a header stays as it is, whatever is done to the disk. */
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { create, open, type CreateOptions, type Qcow2 } from '../../lib/index.js';
import { patched } from '../support/format-images.js';
import { expectCleanByQemu } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const compatibleAt = 80;
const autoclearAt = 88;
const headerLengthAt = 100;
const extensionMagic = 0x7ea5e1e5;
const unknownBits = 0x8000_0000_0001_0000n;
/** The fields that a change of the disk may alter: size, L1 table and refcount table, with what lies between. */
const changeable: readonly [start: number, end: number][] = [
  [24, 32],
  [36, 60],
  [72, 80],
];

const inDirectory = useTempDir();
const path = (): string => inDirectory('image.qcow2');

/** Makes an image with a longer header, an unknown extension of an odd length, and unknown feature bits. */
async function makeStrange(options: CreateOptions = {}): Promise<void> {
  await (await create(path(), 4 * MiB, options)).close();
  const bytes = await readFile(path());
  const longer = 24;
  const oldLength = bytes.readUInt32BE(headerLengthAt);
  const nameAt = Number(bytes.readBigUInt64BE(8));
  const firstCluster = bytes.subarray(0, options.clusterSize ?? 65536);
  const extension = Buffer.concat([Buffer.alloc(8), Buffer.from('eleven byte'), Buffer.alloc(5)]);
  extension.writeUInt32BE(extensionMagic, 0);
  extension.writeUInt32BE(11, 4);
  const rest = Buffer.from(firstCluster.subarray(oldLength, firstCluster.length - longer - extension.length));
  Buffer.from('fields of the future!!!!').copy(bytes, oldLength, 0, longer);
  extension.copy(bytes, oldLength + longer);
  rest.copy(bytes, oldLength + longer + extension.length);
  const changed = patched(
    bytes,
    [headerLengthAt, 4, oldLength + longer],
    [compatibleAt, 8, unknownBits | bytes.readBigUInt64BE(compatibleAt)],
    [autoclearAt, 8, unknownBits | bytes.readBigUInt64BE(autoclearAt)],
    [8, 8, nameAt === 0 ? 0 : nameAt + longer + extension.length],
  );
  await writeFile(path(), changed);
}

/** The first cluster without the fields that may change. */
async function preserved(clusterSize = 65536): Promise<Buffer> {
  const bytes = (await readFile(path())).subarray(0, clusterSize);
  for (const [start, end] of changeable) bytes.fill(0, start, end);
  return bytes;
}

async function useDisk(disk: Qcow2): Promise<void> {
  await disk.write(pattern(1, 2 * MiB), 5000);
  await disk.writeZeroes(100_000, 200_000);
  await disk.discard(500_000, 300_000);
  await disk.write(
    Buffer.alloc(65536, 7),
    3 * MiB,
    disk.header.cryptMethod === 'none' ? { compress: true } : {},
  );
  await disk.flush();
  await disk.resize(64 * MiB);
  await disk.resize(MiB, { shrink: true });
}

describe('a header with unknown parts', () => {
  it.each<{ what: string; options: CreateOptions }>([
    { what: 'plain', options: {} },
    { what: 'clusters of 512 bytes', options: { clusterSize: 512 } },
    { what: 'lazy refcounts', options: { lazyRefcounts: true } },
    { what: 'encryption', options: { encryption: { secret: 'open sesame', iterTimeMs: 10 } } },
    {
      what: 'backing file',
      options: { backing: { name: 'a name that is a little longer', format: 'raw' }, resolve: 'any' },
    },
  ])('$what: keeps all of it through every change of the disk', async ({ options }) => {
    await writeFile(inDirectory('a name that is a little longer'), pattern(2, MiB));
    await makeStrange(options);
    const before = await preserved(options.clusterSize);
    const disk = await open(path(), { mode: 'r+', resolve: 'any', secret: 'open sesame' });
    expect(disk.header.extensions.map(({ type }) => type)).toContain(extensionMagic);
    await useDisk(disk);
    await disk.close();
    const after = await preserved(options.clusterSize);
    // Whoever writes clears the autoclear bits it does not know.
    expect(after.readBigUInt64BE(autoclearAt)).toBe(0n);
    after.writeBigUInt64BE(before.readBigUInt64BE(autoclearAt), autoclearAt);
    expect(after.equals(before)).toBe(true);
    if (options.encryption === undefined) await expectCleanByQemu(path());
  });

  it('opening read-only changes nothing, not even the autoclear bits', async () => {
    await makeStrange();
    const before = await readFile(path());
    const disk = await open(path());
    await disk.read(Buffer.alloc(65536), 0);
    await disk.info();
    await disk.close();
    expect((await readFile(path())).equals(before)).toBe(true);
  });

  it('opening read-write changes the autoclear bits and nothing else', async () => {
    await makeStrange();
    const before = await readFile(path());
    await (await open(path(), { mode: 'r+' })).close();
    const after = await readFile(path());
    before.writeBigUInt64BE(0n, autoclearAt);
    expect(after.equals(before)).toBe(true);
  });

  it('an ordinary image is not changed at all by opening it read-write', async () => {
    await (await create(path(), 4 * MiB)).close();
    const before = await readFile(path());
    await (await open(path(), { mode: 'r+' })).close();
    expect((await readFile(path())).equals(before)).toBe(true);
  });

  it('unknown incompatible bits are refused by number or by the name the image gives them', async () => {
    await (await create(path(), MiB)).close();
    const bytes = await readFile(path());
    await writeFile(path(), patched(bytes, [72, 8, 1n << 40n]));
    const refusal = { code: 'ERR_QCOW2_UNSUPPORTED', message: expect.stringContaining('40') as string };
    await expect(open(path())).rejects.toMatchObject(refusal);
    const name = Buffer.alloc(48);
    name[1] = 40;
    name.write('time travel', 2);
    const table = bytes.indexOf(Buffer.from('6803f857', 'hex'));
    const named = patched(bytes, [72, 8, 1n << 40n]);
    Buffer.from(named.buffer).set(name, table + 8);
    await writeFile(path(), named);
    await expect(open(path())).rejects.toMatchObject({
      code: 'ERR_QCOW2_UNSUPPORTED',
      message: expect.stringContaining('time travel') as string,
    });
  });

  it('the corrupt bit lets an image be read and not be written', async () => {
    const disk = await create(path(), MiB);
    await disk.write(pattern(1, 4096), 0);
    await disk.close();
    await writeFile(path(), patched(await readFile(path()), [72, 8, 2n]));
    const again = await open(path());
    const content = Buffer.alloc(4096);
    await again.read(content, 0);
    await again.close();
    expect(content.equals(pattern(1, 4096))).toBe(true);
    await expect(open(path(), { mode: 'r+' })).rejects.toMatchObject({ code: 'ERR_QCOW2_CORRUPT' });
  });
});
