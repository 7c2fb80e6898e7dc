/** Parsing headers: what is accepted, what is refused and how the refusal names it, with qemu-img as the oracle. */
import fc from 'fast-check';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { Qcow2Error } from '../../lib/errors.js';
import { layoutFirstCluster } from '../../lib/format/first-cluster.js';
import { encodeFeatureNameTable, hasFeature, withFeature } from '../../lib/format/features.js';
import { extensionTypes } from '../../lib/format/header-extensions.js';
import { encodeField, headerFields } from '../../lib/format/header-fields.js';
import { encodeHeader, headerBytesNeeded, parseHeader } from '../../lib/format/header.js';
import type { ParseHeaderOptions } from '../../lib/format/header.js';
import { hostOffset } from '../../lib/format/units.js';
import { luksArgs, patched, qemuImage, qemuImg, withDirectory } from '../support/format-images.js';

const kib64 = 65536;
type Patch = [offset: number, size: 1 | 2 | 4 | 8, value: number | bigint];

const parse = (image: Uint8Array, options?: ParseHeaderOptions) =>
  parseHeader(image.subarray(0, headerBytesNeeded(image, image.length)), image.length, options);

function refusal(run: () => unknown): Qcow2Error {
  try {
    run();
  } catch (error) {
    if (error instanceof Qcow2Error) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

const images = {
  v3: () => qemuImage(['10M']),
  v2: () => qemuImage(['-o', 'compat=0.10', '10M']),
  empty: () => qemuImage(['0']),
  backed: () => qemuImage(['-b', 'base.qcow2', '-F', 'qcow2', '10M']),
  luks: () => qemuImage([...luksArgs, '10M']),
  dataFile: () => qemuImage(['-o', 'data_file=data.raw,data_file_raw=on', '10M']),
  bitmaps: () => qemuImage(['10M'], (directory, name) => qemuImg(directory, 'bitmap', '--add', name, 'b')),
  snapshots: () => qemuImage(['10M'], (directory, name) => qemuImg(directory, 'snapshot', '-c', 's', name)),
};
type ImageName = keyof typeof images;
const image = {} as Record<ImageName, Uint8Array>;
/** The version 3 image without its feature name table: nothing but zeros behind the header. */
let bare: Uint8Array;

beforeAll(() => {
  for (const name of Object.keys(images) as ImageName[]) image[name] = images[name]();
  bare = Uint8Array.from(image.v3).fill(0, 112, 1024);
});

describe('parseHeader against qemu-img info', () => {
  const combinations = [
    '',
    'compat=0.10',
    'cluster_size=512',
    'cluster_size=2M,refcount_bits=1',
    'refcount_bits=64,lazy_refcounts=on',
    'compression_type=zstd',
    'extended_l2=on,cluster_size=16k',
    'preallocation=metadata',
    'preallocation=full,cluster_size=4k',
    'data_file=data.raw',
    'backing_file=base.qcow2,backing_fmt=qcow2',
    'compat=0.10,backing_file=base.qcow2,backing_fmt=qcow2',
  ];
  it.each(combinations)('agrees on -o %s', (options) => {
    withDirectory((directory) => {
      qemuImg(directory, 'create', '-q', '-f', 'qcow2', 'base.qcow2', '10M');
      const chosen = options === '' ? [] : ['-o', options];
      qemuImg(directory, 'create', '-q', '-f', 'qcow2', ...chosen, 'i.qcow2', '10M');
      const info = JSON.parse(qemuImg(directory, 'info', '--output=json', 'i.qcow2')) as {
        'virtual-size': number;
        'cluster-size': number;
        'backing-filename'?: string;
        'backing-filename-format'?: string;
        'format-specific': { data: Record<string, unknown> };
      };
      const specific = info['format-specific'].data;
      const header = parse(qemuImage([...chosen, '10M']));
      expect({
        size: header.size,
        clusterSize: header.geometry.clusterSize,
        compat: header.version === 2 ? '0.10' : '1.1',
        compressionType: header.compressionType,
        refcountBits: header.geometry.refcountBits,
        lazyRefcounts: hasFeature(header, 'lazyRefcounts'),
        extendedL2: header.geometry.extendedL2,
        backingFile: header.backingFile,
        backingFormat: header.backingFormat,
        dataFile: header.dataFile,
      }).toEqual({
        size: info['virtual-size'],
        clusterSize: info['cluster-size'],
        compat: specific.compat,
        compressionType: specific['compression-type'],
        refcountBits: specific['refcount-bits'],
        lazyRefcounts: specific['lazy-refcounts'] ?? false,
        extendedL2: specific['extended-l2'] ?? false,
        backingFile: info['backing-filename'] ?? null,
        backingFormat: info['backing-filename-format'] ?? null,
        dataFile: specific['data-file'] ?? null,
      });
    });
  });

  it('finds the LUKS header where its magic is', () => {
    const { encryption, cryptMethod } = parse(image.luks);
    expect(cryptMethod).toBe('luks');
    const at = encryption?.offset ?? 0;
    expect(Buffer.from(image.luks.subarray(at, at + 6)).toString('latin1')).toBe('LUKS\xba\xbe');
  });

  it('finds the bitmap directory where the name of the bitmap is', () => {
    const { bitmaps } = parse(image.bitmaps);
    const at = bitmaps?.directoryOffset ?? 0;
    expect(bitmaps).toMatchObject({ nbBitmaps: 1, directorySize: 32 });
    expect(image.bitmaps[at + 24]).toBe('b'.charCodeAt(0));
  });

  it('reads the feature fields of a version 2 image as zero whatever follows the header', () => {
    const extension = patched(image.v2, [72, 4, 0x12345678], [76, 4, 8], [80, 8, 0xffff_ffff_ffffn]);
    const header = parse(extension);
    expect(header).toMatchObject({ incompatible: 0n, compatible: 0n, autoclear: 0n, refcountOrder: 4 });
    expect(header.extensions).toMatchObject([{ type: 0x12345678, offset: 80 }]);
  });
});

describe('what qemu-img opens and the specification allows', () => {
  const accepted: [string, ImageName | 'bare', Patch[]][] = [
    ['backing_file_size is undefined without a backing file', 'v3', [[16, 4, 99999]]],
    ['a backing name of 1023 bytes', 'backed', [[16, 4, 1023]]],
    ['an L1 table with more entries than needed', 'v3', [[36, 4, 2]]],
    ['an empty L1 table at offset 0', 'empty', [[40, 8, 0]]],
    ['an empty L1 table anywhere', 'empty', [[40, 8, 1n << 40n]]],
    ['unknown compatible bits', 'v3', [[80, 8, 1n << 63n]]],
    ['unknown autoclear bits', 'v3', [[88, 8, 1n << 63n]]],
    ['a header of 104 bytes', 'bare', [[100, 4, 104]]],
    ['a header longer than known', 'bare', [[100, 4, 128]]],
    ['a header that fills the cluster', 'bare', [[100, 4, kib64]]],
    ['dirty and corrupt bits', 'v3', [[72, 8, 3]]],
    // prettier-ignore
    ['an extension that fills the area', 'bare', [[112, 4, 0x12345678], [116, 4, kib64 - 120]]],
    // prettier-ignore
    ['an unaligned length up to the end', 'bare', [[112, 4, 0x12345678], [116, 4, kib64 - 127]]],
    // prettier-ignore
    ['an unknown extension twice', 'bare', [[112, 4, 0x12345678], [116, 4, 8], [128, 4, 0x12345678], [132, 4, 8]]],
    [
      'a broken bitmaps extension without its autoclear bit',
      'bare',
      [
        [112, 4, 0x23852875],
        [116, 4, 24],
      ],
    ],
  ];
  it.each(accepted)('%s', (_, name, patches) => {
    const bytes = patched(name === 'bare' ? bare : image[name], ...patches);
    withDirectory((directory) => {
      writeFileSync(join(directory, 'i.qcow2'), bytes);
      expect(qemuImg(directory, 'info', 'i.qcow2')).toContain('file format: qcow2');
    });
    expect(() => parse(bytes)).not.toThrow();
  });

  it('a file that ends inside its last cluster', () => {
    expect(parse(image.v3.subarray(0, 3 * kib64 + 1)).l1Size).toBe(1);
    expect(parse(image.empty.subarray(0, 3 * kib64)).l1Size).toBe(0);
  });

  it('any snapshots_offset, which means nothing without snapshots', () => {
    expect(parse(patched(image.v3, [64, 8, 12345n])).snapshotsOffset).toBe(0);
  });
});

describe('what is refused', () => {
  const invalid = 'ERR_QCOW2_INVALID_HEADER';
  const unsupported = 'ERR_QCOW2_UNSUPPORTED';
  type Refused = [string, ImageName | 'bare', Patch[], string, string, number];
  const refused: Refused[] = [
    ['wrong magic', 'v3', [[0, 1, 0x52]], 'ERR_QCOW2_NOT_QCOW2', 'magic', 0],
    ['version 1', 'v3', [[4, 4, 1]], unsupported, 'version', 4],
    ['version 4', 'v3', [[4, 4, 4]], unsupported, 'version', 4],
    ['cluster_bits 8', 'v3', [[20, 4, 8]], invalid, 'cluster_bits', 20],
    ['cluster_bits 22', 'v3', [[20, 4, 22]], unsupported, 'cluster_bits', 20],
    ['header_length 96', 'v3', [[100, 4, 96]], invalid, 'header_length', 100],
    ['header_length 108', 'v3', [[100, 4, 108]], invalid, 'header_length', 100],
    ['header_length past the cluster', 'v3', [[100, 4, kib64 + 8]], invalid, 'header_length', 100],
    ['refcount_order 7', 'v3', [[96, 4, 7]], invalid, 'refcount_order', 96],
    ['crypt_method 3', 'v3', [[32, 4, 3]], unsupported, 'crypt_method', 32],
    ['LUKS without its extension', 'v3', [[32, 4, 2]], invalid, 'crypt_method', 32],
    [
      'the LUKS extension without LUKS',
      'luks',
      [[32, 4, 0]],
      invalid,
      'full disk encryption header pointer',
      120,
    ],
    ['a LUKS header of 0 bytes', 'luks', [[128, 8, 0]], invalid, 'full disk encryption header pointer', 128],
    ['a compression type without its bit', 'v3', [[104, 1, 1]], invalid, 'compression_type', 104],
    ['the compression bit without a type', 'v3', [[72, 8, 8]], invalid, 'compression_type', 104],
    // prettier-ignore
    ['the compression bit without the field', 'bare', [[72, 8, 8], [100, 4, 104], [104, 8, 0]], invalid, 'compression_type', 104],
    // prettier-ignore
    ['an unknown compression type', 'v3', [[72, 8, 8], [104, 1, 2]], unsupported, 'compression_type', 104],
    // prettier-ignore
    ['extended L2 in small clusters', 'bare', [[72, 8, 16], [20, 4, 13]], invalid, 'cluster_bits', 20],
    ['raw external data without a data file', 'v3', [[88, 8, 2]], invalid, 'autoclear_features', 88],
    ['a disk past 2^53', 'v3', [[24, 8, 1n << 53n]], unsupported, 'size', 24],
    ['an L1 table too small', 'v3', [[24, 8, 1n << 30n]], invalid, 'l1_size', 36],
    ['an L1 table over 32 MiB', 'v3', [[36, 4, 4194305]], unsupported, 'l1_size', 36],
    ['an L1 table off its cluster', 'v3', [[40, 8, 0x30008]], invalid, 'l1_table_offset', 40],
    ['an L1 table past the end', 'v3', [[40, 8, 0x40000]], invalid, 'l1_table_offset', 40],
    ['an L1 table running past the end', 'v3', [[36, 4, 8193]], invalid, 'l1_table_offset', 40],
    ['an L1 table past 2^53', 'v3', [[40, 8, 1n << 60n]], unsupported, 'l1_table_offset', 40],
    ['an L1 table over the header', 'v3', [[40, 8, 0]], invalid, 'l1_table_offset', 40],
    ['no refcount table', 'v3', [[56, 4, 0]], invalid, 'refcount_table_clusters', 56],
    ['a refcount table over 8 MiB', 'v3', [[56, 4, 129]], unsupported, 'refcount_table_clusters', 56],
    ['a refcount table over the header', 'v3', [[48, 8, 0]], invalid, 'refcount_table_offset', 48],
    ['a refcount table off its cluster', 'v3', [[48, 8, 1]], invalid, 'refcount_table_offset', 48],
    ['a refcount table past the end', 'v3', [[48, 8, 0x50000]], invalid, 'refcount_table_offset', 48],
    ['a refcount table past 2^53', 'v3', [[48, 8, 1n << 63n]], unsupported, 'refcount_table_offset', 48],
    ['a refcount table over the L1 table', 'v3', [[56, 4, 3]], invalid, 'refcount_table_offset', 48],
    ['too many snapshots', 'snapshots', [[60, 4, 65537]], unsupported, 'nb_snapshots', 60],
    ['a snapshot table off its cluster', 'snapshots', [[64, 8, 8]], invalid, 'snapshots_offset', 64],
    ['a snapshot table past the end', 'snapshots', [[64, 8, 1n << 40n]], invalid, 'snapshots_offset', 64],
    ['a snapshot table over the L1 table', 'snapshots', [[64, 8, 0x30000]], invalid, 'snapshots_offset', 64],
    ['a backing name of 1024 bytes', 'backed', [[16, 4, 1024]], invalid, 'backing_file_size', 16],
    // prettier-ignore
    ['a backing name past the cluster', 'backed', [[8, 8, kib64 - 3]], invalid, 'backing_file_offset', 8],
    // prettier-ignore
    ['a backing name in the header', 'v3', [[8, 8, 16], [16, 4, 4]], invalid, 'backing_file_offset', 8],
    ['a backing name in an extension', 'backed', [[8, 8, 0x78]], invalid, 'backing file format name', 112],
    // prettier-ignore
    ['an extension whose length would wrap', 'bare', [[112, 4, 0x12345678], [116, 4, 0xffffffff]], invalid, 'type 0x12345678', 112],
    // prettier-ignore
    ['an extension one byte too long', 'bare', [[112, 4, 0x12345678], [116, 4, kib64 - 119]], invalid, 'type 0x12345678', 112],
    // prettier-ignore
    ['a known extension twice', 'backed', [[128, 4, 0xe2792aca], [132, 4, 5]], invalid, 'backing file format name', 128],
    ['bitmaps: none', 'bitmaps', [[512, 4, 0]], invalid, 'bitmaps', 512],
  ];
  it.each(refused)('%s', (_, name, patches, code, feature, offset) => {
    // The bitmaps extension follows the feature name table; its place is looked up, not assumed.
    const bitmapsAt = Buffer.from(image.bitmaps).indexOf('23852875', 'hex') + 8;
    const shift = name === 'bitmaps' ? bitmapsAt - 512 : 0;
    const moved = patches.map(([at, size, value]): Patch => [at + shift, size, value]);
    const error = refusal(() => parse(patched(name === 'bare' ? bare : image[name], ...moved)));
    expect({ code: error.code, feature: error.feature, offset: error.offset }).toEqual({
      code,
      feature,
      offset: offset + shift,
    });
  });

  it('names the table that another one lies over', () => {
    const error = refusal(() => parse(patched(image.v3, [40, 8, 0x10000])));
    expect(error.message).toContain(
      'the refcount table at 0x10000..0x20000, over the L1 table at 0x10000..0x20000',
    );
  });

  it.each([
    ['bitmap directory', 'bitmaps', 'bitmap_directory_offset'],
    ['encryption header', 'luks', 'full disk encryption header pointer'],
  ] as const)('a %s over the L1 table', (_, name, feature) => {
    const header = parse(image[name]);
    const type = name === 'bitmaps' ? extensionTypes.bitmaps : extensionTypes.encryption;
    const data = header.extensions.find((extension) => extension.type === type);
    const field = (data?.offset ?? 0) + (name === 'bitmaps' ? 16 : 0);
    const error = refusal(() => parse(patched(image[name], [field, 8, header.l1TableOffset])));
    expect(error).toMatchObject({ code: invalid, feature, offset: field });
  });

  it('names unknown incompatible bits from the table in the image, made harmless', () => {
    const table = encodeFeatureNameTable([{ kind: 'incompatible', bit: 40, name: 'evil \x1b[2J ü "x"' }]);
    const bytes = patched(bare, [72, 8, (1n << 40n) | (1n << 63n)], [112, 4, 0x6803f857], [116, 4, 48]);
    bytes.set(table, 120);
    const error = refusal(() => parse(bytes));
    expect(error).toMatchObject({ code: unsupported, feature: 'incompatible_features', offset: 72 });
    expect(error.message).toContain('"evil \\x1b[2J \\xc3\\xbc \\x22x\\x22" (bit 40), bit 63');
    expect(error.message).not.toMatch(/[^\x20-\x7e]/);
  });

  it('a file that ends inside its header', () => {
    expect(refusal(() => parse(new Uint8Array(0))).code).toBe('ERR_QCOW2_NOT_QCOW2');
    expect(refusal(() => parse(image.v2.subarray(0, 71))).code).toBe(invalid);
    expect(refusal(() => parse(image.v3.subarray(0, 103))).code).toBe(invalid);
    expect(refusal(() => parse(image.v3.subarray(0, 3 * kib64))).feature).toBe('l1_table_offset');
  });
});

describe("tolerate: 'refcounts'", () => {
  it.each([
    ['no clusters', [[56, 4, 0]]],
    ['too many clusters', [[56, 4, 0xffffffff]]],
    ['over the header', [[48, 8, 0]]],
    ['off its cluster', [[48, 8, 12345]]],
    ['past the end', [[48, 8, 1n << 40n]]],
    ['past 2^53', [[48, 8, (1n << 64n) - 1n]]],
    ['over the L1 table', [[48, 8, 0x30000]]],
  ] as [string, Patch[]][])('opens an image whose refcount table is damaged: %s', (_, patches) => {
    const damaged = patched(image.v3, ...patches);
    const { problems, l1TableOffset } = parse(damaged, { tolerate: 'refcounts' });
    expect(l1TableOffset).toBe(0x30000);
    expect(problems.length).toBeGreaterThan(0);
    for (const problem of problems) expect(problem.feature).toMatch(/^refcount_table_/);
    expect(() => parse(damaged)).toThrow(Qcow2Error);
  });

  it('reports nothing on a sound image and refuses other damage', () => {
    expect(parse(image.v3, { tolerate: 'refcounts' }).problems).toEqual([]);
    const damaged = patched(image.v3, [40, 8, 0x40000], [56, 4, 0]);
    expect(refusal(() => parse(damaged, { tolerate: 'refcounts' })).feature).toBe('l1_table_offset');
  });
});

describe('encoding', () => {
  it('gives back the fixed fields of images that qemu-img made', () => {
    for (const bytes of Object.values(image)) {
      const header = parse(bytes);
      expect(encodeHeader(header)).toEqual(bytes.slice(0, header.headerLength));
    }
  });

  it('keeps header bytes that it does not know', () => {
    const future = patched(bare, [100, 4, 120], [105, 1, 0], [112, 8, 0x1122334455667788n]);
    expect(encodeHeader(parse(future))).toEqual(future.slice(0, 120));
  });

  it('patches a single field', () => {
    const bytes = Uint8Array.from(image.v3);
    bytes.set(encodeField('nbSnapshots', 7), headerFields.nbSnapshots.offset);
    expect(Buffer.compare(bytes, patched(image.v3, [60, 4, 7]))).toBe(0);
    bytes.set(encodeField('size', 2n ** 63n), headerFields.size.offset);
    expect(Buffer.compare(bytes, patched(image.v3, [60, 4, 7], [24, 8, 1n << 63n]))).toBe(0);
    expect(() => encodeField('nbSnapshots', 2 ** 32)).toThrow(RangeError);
    expect(() => encodeField('size', -1)).toThrow(RangeError);
    expect(() => encodeField('size', 2 ** 53)).toThrow(RangeError);
  });

  it('sets one feature bit and leaves unknown ones', () => {
    const fields = { incompatible: 1n << 63n, compatible: 0n, autoclear: 1n << 40n };
    const dirty = withFeature(fields, 'dirty', true);
    expect(dirty).toEqual({ ...fields, incompatible: (1n << 63n) | 1n });
    expect(withFeature(dirty, 'dirty', false)).toEqual(fields);
    expect(hasFeature(dirty, 'dirty') && !hasFeature(dirty, 'bitmaps')).toBe(true);
  });
});

describe('properties', () => {
  /** Fields of a header whose tables lie one behind the other in a file of 100 clusters. */
  const anyHeader = fc
    .record({
      clusterBits: fc.integer({ min: 9, max: 21 }),
      refcountOrder: fc.integer({ min: 0, max: 6 }),
      headerLength: fc.integer({ min: 13, max: 30 }).map((words) => words * 8),
      cryptMethod: fc.constantFrom('none' as const, 'aes' as const),
      compatible: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      autoclear: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map((bits) => bits & ~3n),
      incompatible: fc.constantFrom(0n, 1n, 2n, 3n),
      backingFile: fc.option(fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }).filter(noNul)),
      unknown: fc.array(
        fc.record({ type: fc.integer({ min: 1, max: 0xffff }), data: fc.uint8Array({ maxLength: 20 }) }),
        { maxLength: 3 },
      ),
      tail: fc.uint8Array({ minLength: 200, maxLength: 200 }),
    })
    .map(({ backingFile, unknown, tail, ...rest }) => {
      const clusterSize = 2 ** rest.clusterBits;
      const fields = {
        ...rest,
        version: 3 as const,
        size: clusterSize,
        l1Size: 1,
        l1TableOffset: hostOffset(clusterSize),
        refcountTableOffset: hostOffset(2 * clusterSize),
        refcountTableClusters: 2,
        nbSnapshots: 3,
        snapshotsOffset: hostOffset(4 * clusterSize),
        compressionType: 'zlib' as const,
        unknownFields: tail.slice(0, Math.max(0, rest.headerLength - 105)),
      };
      return { fields, extensions: unknown, backingFile, fileSize: 100 * clusterSize };
    });

  it('parse(layout(x)) = x', () => {
    fc.assert(
      fc.property(anyHeader, ({ fields, extensions, backingFile, fileSize }) => {
        const parsed = parseHeader(layoutFirstCluster({ fields, extensions, backingFile }), fileSize);
        expect(parsed).toMatchObject({ ...fields, backingFile });
        expect(parsed.extensions.map(({ type, data }) => ({ type, data }))).toEqual(extensions);
      }),
    );
  });

  it('any damage to a valid first cluster gives a header or a Qcow2Error', () => {
    const names = Object.keys(images) as ImageName[];
    const interesting = fc.constantFrom(0, 1, 2, 3, 4, 9, 16, 21, 0x7f, 0x80, 0xff);
    const mutation = fc.record({
      at: fc.oneof(fc.integer({ min: 4, max: 111 }), fc.integer({ min: 0, max: 700 })),
      value: fc.oneof(interesting, fc.integer({ min: 0, max: 255 })),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(...names),
        fc.array(mutation, { minLength: 1, maxLength: 6 }),
        fc.option(fc.integer({ min: 0, max: 4 * kib64 })),
        fc.constantFrom<ParseHeaderOptions>({}, { tolerate: 'refcounts' }),
        (name, mutations, length, options) => {
          const bytes = image[name].slice(0, length ?? undefined);
          for (const { at, value } of mutations) if (at < bytes.length) bytes[at] = value;
          onlyQcow2Errors(() => parse(bytes, options));
          // A caller that could read less than the file has, as when it shrinks meanwhile.
          onlyQcow2Errors(() => parseHeader(bytes.subarray(0, 90), bytes.length, options));
        },
      ),
      { numRuns: 2000 },
    );
  });
});

const noNul = (name: string): boolean => !name.includes('\0');

function onlyQcow2Errors(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
  }
}
