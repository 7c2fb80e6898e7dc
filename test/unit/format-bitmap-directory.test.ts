/** Bitmap directories of qemu-img, ones with parts this package does not know, and hostile ones. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Qcow2Error } from '../../lib/errors.js';
import {
  bitmapFlags,
  bitmapName,
  bitmapObstacle,
  bitmapTableEntriesFor,
  checkBitmapTable,
  encodeBitmapDirectory,
  parseBitmapDirectory,
  type BitmapEntry,
} from '../../lib/format/bitmap-directory.js';
import { headerBytesNeeded, parseHeader } from '../../lib/format/header.js';
import { hostOffset } from '../../lib/format/units.js';
import { patched, qemuImage, qemuImg } from '../support/format-images.js';

const at0 = hostOffset(0);

describe('directories of qemu-img', () => {
  it('tell what qemu-img info tells and encode to the same bytes', () => {
    let listed: { name: string; granularity: number; flags: string[] }[] = [];
    const image = qemuImage(['-o', 'cluster_size=4k', '100M'], (directory, name) => {
      qemuImg(directory, 'bitmap', '--add', name, 'b0');
      qemuImg(directory, 'bitmap', '--add', '--disable', '-g', '512', name, 'ünused');
      qemuImg(directory, 'bitmap', '--add', '-g', '1M', name, 'x'.repeat(1023));
      const info = JSON.parse(qemuImg(directory, 'info', '--output=json', name)) as {
        'format-specific': { data: { bitmaps: typeof listed } };
      };
      listed = info['format-specific'].data.bitmaps;
    });
    const header = parseHeader(image.subarray(0, headerBytesNeeded(image, image.length)), image.length);
    const { directoryOffset, directorySize, nbBitmaps } = header.bitmaps ?? {
      directoryOffset: at0,
      directorySize: 0,
      nbBitmaps: 0,
    };
    const bytes = image.slice(directoryOffset, directoryOffset + directorySize);
    const entries = parseBitmapDirectory(bytes, nbBitmaps, directoryOffset);
    expect(
      entries.map(({ name, granularityBits, flags }) => ({
        name,
        granularity: 2 ** granularityBits,
        flags: [flags & bitmapFlags.inUse ? 'in-use' : '', flags & bitmapFlags.auto ? 'auto' : ''].filter(
          Boolean,
        ),
      })),
    ).toEqual(listed);
    expect(encodeBitmapDirectory(entries)).toEqual(bytes);
    for (const entry of entries) {
      expect(bitmapObstacle(entry)).toBeNull();
      expect(checkBitmapTable(entry, header.size, header.geometry.clusterSize, image.length)).toBeNull();
    }
    expect(entries.map(({ tableSize }) => tableSize)).toEqual([1, 7, 1]);
  });
});

const example: BitmapEntry = {
  ...bitmapName('first'),
  tableOffset: hostOffset(0x10000),
  tableSize: 1,
  flags: bitmapFlags.auto,
  type: 1,
  granularityBits: 16,
  extraData: new Uint8Array(0),
};
const second: BitmapEntry = { ...example, ...bitmapName('second'), extraData: Uint8Array.of(1, 2, 3) };

describe('entries', () => {
  it('that cannot be used say why and are kept', () => {
    const unusable: [Partial<BitmapEntry>, RegExp][] = [
      [{ flags: 0x8000_0000 }, /unknown flags 0x80000000/],
      [{ type: 2 }, /unknown type 2/],
      [{ granularityBits: 8 }, /granularity of 2\^8/],
      [{ granularityBits: 32 }, /granularity of 2\^32/],
      [{ extraData: Uint8Array.of(9) }, /1 bytes of extra data/],
    ];
    for (const [change, reason] of unusable) {
      const entry = { ...example, ...change };
      expect(bitmapObstacle(entry)).toMatch(reason);
      expect(parseBitmapDirectory(encodeBitmapDirectory([entry]), 1, at0)).toEqual([entry]);
    }
    const compatible = { ...second, flags: bitmapFlags.extraDataCompatible };
    expect(bitmapObstacle(compatible)).toBeNull();
  });

  it('need a table of the right size inside the file', () => {
    const check = (change: Partial<BitmapEntry>) =>
      checkBitmapTable({ ...example, ...change }, 2 ** 30, 65536, 0x20000)?.message ?? null;
    expect(check({})).toBeNull();
    expect(check({ tableSize: 2 })).toContain('needs 1');
    expect(check({ tableSize: 2, flags: bitmapFlags.inUse })).toBeNull();
    expect(check({ tableOffset: hostOffset(0x10200) })).toContain('not aligned');
    expect(check({ tableOffset: hostOffset(0x20000) })).toContain('past the end');
    expect(check({ tableOffset: at0 })).toContain('header');
  });

  it('need as many table entries as there are clusters of bits', () => {
    expect(bitmapTableEntriesFor(0, 16, 65536)).toBe(0);
    expect(bitmapTableEntriesFor(1, 16, 65536)).toBe(1);
    expect(bitmapTableEntriesFor(2 ** 9 * 8 * 512, 9, 512)).toBe(1);
    expect(bitmapTableEntriesFor(2 ** 9 * 8 * 512 + 1, 9, 512)).toBe(2);
  });
});

describe('hostile directories', () => {
  const bytes = encodeBitmapDirectory([example, second]);

  it.each([
    ['no name', [18, 2, 0], 'ERR_QCOW2_CORRUPT', 0],
    ['a name too long', [18, 2, 1024], 'ERR_QCOW2_UNSUPPORTED', 0],
    ['a name past the end', [50, 2, 1000], 'ERR_QCOW2_CORRUPT', 32],
    ['extra data whose length would wrap', [20, 4, 0xffffffff], 'ERR_QCOW2_CORRUPT', 0],
    ['a table past 2^53', [0, 8, 1n << 63n], 'ERR_QCOW2_CORRUPT', 0],
  ] as [string, [number, 2 | 4 | 8, number | bigint], string, number][])('%s', (_, change, code, offset) => {
    expect(() => parseBitmapDirectory(patched(bytes, change), 2, at0)).toThrow(
      expect.objectContaining({ code, offset, feature: 'bitmap directory' }) as Error,
    );
  });

  it('a name twice', () => {
    expect(() => parseBitmapDirectory(encodeBitmapDirectory([example, example]), 2, at0)).toThrow(/"first"/);
  });

  it('a length that is not that of the entries', () => {
    expect(() => parseBitmapDirectory(bytes, 1, at0)).toThrow(/take 32/);
    expect(() => parseBitmapDirectory(bytes, 3, at0)).toThrow(/does not fit/);
    expect(() => parseBitmapDirectory(bytes.subarray(0, bytes.length - 1), 2, at0)).toThrow(Qcow2Error);
  });

  it('any bytes give entries or a Qcow2Error', () => {
    const changes = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 5 });
    fc.assert(
      fc.property(changes, fc.nat(4), fc.nat(bytes.length), (list, count, length) => {
        const damaged = bytes.slice(0, length);
        for (const [at, value] of list) if (at < length) damaged[at] = value;
        try {
          expect(parseBitmapDirectory(damaged, count, at0)).toHaveLength(count);
        } catch (error) {
          expect(error).toBeInstanceOf(Qcow2Error);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

it('refuses to encode a name that the format cannot hold', () => {
  expect(() => encodeBitmapDirectory([{ ...example, ...bitmapName('') }])).toThrow(/1 to 1023/);
  expect(() => encodeBitmapDirectory([{ ...example, ...bitmapName('ü'.repeat(512)) }])).toThrow(/not 1024/);
});

it('parse(encode(x)) = x', () => {
  const u32 = fc.integer({ min: 0, max: 0xffffffff });
  const entry = fc
    .record({
      tableOffset: fc.maxSafeNat().map(hostOffset),
      tableSize: u32,
      flags: u32,
      type: fc.nat(255),
      granularityBits: fc.nat(255),
      name: fc.string({ unit: 'binary', minLength: 1, maxLength: 50 }),
      extraData: fc.uint8Array({ maxLength: 50 }),
    })
    .map((fields): BitmapEntry => ({ ...fields, ...bitmapName(fields.name) }));
  const directories = fc.uniqueArray(entry, { maxLength: 5, selector: ({ name }) => name });
  fc.assert(
    fc.property(directories, (entries) => {
      expect(parseBitmapDirectory(encodeBitmapDirectory(entries), entries.length, at0)).toEqual(entries);
    }),
  );
});
