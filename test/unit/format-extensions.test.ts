/** Header extensions and the layout of the first cluster, byte for byte against images made by qemu-img. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Qcow2Error } from '../../lib/errors.js';
import { decodeFeatureNameTable, features } from '../../lib/format/features.js';
import { changedBytes, layoutFirstCluster, replaceExtensions } from '../../lib/format/first-cluster.js';
import {
  backingFormatExtension,
  dataFileExtension,
  encodeBitmapsExtension,
  encodeEncryptionPointer,
  encodeExtensions,
  extensionTypes,
  featureNamesExtension,
  findExtension,
  hasRoomForFeatureNames,
  scanExtensions,
  type HeaderExtension,
} from '../../lib/format/header-extensions.js';
import { parseHeader, type Header } from '../../lib/format/header.js';
import { luksArgs, patched, qemuImage, qemuImg, withDirectory } from '../support/format-images.js';

const firstCluster = (image: Uint8Array): Uint8Array => {
  const size = 2 ** new DataView(image.buffer, image.byteOffset).getUint32(20);
  const cluster = new Uint8Array(size);
  cluster.set(image.subarray(0, size));
  return cluster;
};

const parse = (image: Uint8Array): Header => parseHeader(firstCluster(image), image.length);

/** Extensions built anew from what the header says, in an order that is not the one they belong in. */
function rebuilt(header: Header): HeaderExtension[] {
  const extensions: HeaderExtension[] = [];
  if (header.bitmaps !== null) extensions.push(encodeBitmapsExtension(header.bitmaps));
  if (hasRoomForFeatureNames(header.version, header.geometry.clusterSize)) {
    extensions.push(featureNamesExtension());
  }
  if (header.encryption !== null) extensions.push(encodeEncryptionPointer(header.encryption));
  if (header.dataFile !== null) extensions.push(dataFileExtension(header.dataFile));
  if (header.backingFormat !== null) extensions.push(backingFormatExtension(header.backingFormat));
  return extensions;
}

/** Where two first clusters begin to differ; undefined when they do not. */
function difference(actual: Uint8Array, expected: Uint8Array): string | undefined {
  const changed = changedBytes(expected, actual);
  if (actual.length === expected.length && changed === null) return undefined;
  return `at ${changed?.offset ?? 0}: ${Buffer.from(changed?.bytes ?? []).toString('hex', 0, 64)}`;
}

describe('layoutFirstCluster writes what qemu-img create writes', () => {
  const versions = ['compat=0.10', 'compat=1.1', 'compat=1.1,lazy_refcounts=on,refcount_bits=64'];
  const clusterSizes = [512, 4096, 8192, 65536, 2097152];
  const backings = [
    '',
    'backing_file=base.qcow2,backing_fmt=qcow2',
    'backing_file=base.qcow2,backing_fmt=raw',
  ];
  const others = [
    'compression_type=zstd',
    'extended_l2=on',
    'extended_l2=on,compression_type=zstd,lazy_refcounts=on,refcount_bits=1',
    'data_file=data.raw',
    'data_file=dätä-file-of-some-length.raw,data_file_raw=on',
    'preallocation=metadata',
    'cluster_size=512,data_file=data.raw',
  ];
  const combinations = [
    ...versions.flatMap((version) =>
      clusterSizes.flatMap((size) =>
        backings.map((backing) => [version, `cluster_size=${size}`, backing].filter(Boolean).join(',')),
      ),
    ),
    ...others,
  ];

  it.each(combinations.map((options) => ['-o', options]))('%s %s', (...args) => {
    const image = qemuImage([...args, '10M']);
    const header = parse(image);
    const laidOut = layoutFirstCluster({
      fields: header,
      extensions: rebuilt(header),
      backingFile: header.backingFile,
    });
    expect(difference(laidOut, firstCluster(image))).toBeUndefined();
  });

  it.each([
    ['LUKS', [...luksArgs, '10M']],
    ['LUKS version 2', [...luksArgs.slice(0, 3), `compat=0.10,${luksArgs[3] ?? ''}`, '10M']],
    ['LUKS on a backing file', [...luksArgs, '-b', 'base.qcow2', '-F', 'qcow2', '10M']],
  ])('%s', (_, args) => {
    const image = qemuImage(args);
    const header = parse(image);
    const laidOut = layoutFirstCluster({
      fields: header,
      extensions: rebuilt(header),
      backingFile: header.backingFile,
    });
    expect(difference(laidOut, firstCluster(image))).toBeUndefined();
  });

  it('bitmaps, added to an image with everything else', () => {
    const image = qemuImage(['-b', 'base.qcow2', '-F', 'qcow2', '10M'], (directory, name) => {
      qemuImg(directory, 'bitmap', '--add', name, 'b');
    });
    const header = parse(image);
    expect(header.bitmaps?.nbBitmaps).toBe(1);
    const laidOut = layoutFirstCluster({
      fields: header,
      extensions: rebuilt(header),
      backingFile: header.backingFile,
    });
    expect(difference(laidOut, firstCluster(image))).toBeUndefined();
  });

  it('says what to do when the backing file name does not fit', () => {
    const header = parse(qemuImage(['-o', 'cluster_size=512', '10M']));
    const attempt = (length: number) =>
      layoutFirstCluster({ fields: header, extensions: [], backingFile: 'x'.repeat(length) });
    expect(attempt(512 - 112 - 8)).toHaveLength(512);
    expect(() => attempt(512 - 112 - 7)).toThrow(/shorter name or larger clusters/);
  });
});

describe('replaceExtensions', () => {
  it('changes what qemu-img rebase -u changes, keeping unknown header bytes and extensions', () => {
    // A header of 120 bytes with an unknown field, then an unknown extension before the known ones.
    const plain = qemuImage(['10M']);
    const image = Uint8Array.from(plain);
    image.set(plain.subarray(112, 112 + 400), 136);
    const before = patched(
      image,
      [100, 4, 120],
      [112, 8, 0x1122334455667788n],
      [120, 4, 0x1111],
      [124, 4, 5],
    );
    before.set(Buffer.from('hello\0\0\0'), 128);
    const expected = withDirectory((directory) => {
      writeFileSync(join(directory, 'i.qcow2'), before);
      qemuImg(directory, 'create', '-q', '-f', 'qcow2', 'base.qcow2', '10M');
      qemuImg(directory, 'rebase', '-u', '-b', 'base.qcow2', '-F', 'qcow2', 'i.qcow2');
      return Uint8Array.from(readFileSync(join(directory, 'i.qcow2')));
    });
    const header = parse(before);
    const extensions = [...header.extensions, backingFormatExtension('qcow2')];
    const after = replaceExtensions(firstCluster(before), header, extensions, 'base.qcow2');
    expect(difference(after, firstCluster(expected))).toBeUndefined();
  });

  it('keeps the bytes of a backing file name that is no UTF-8', () => {
    const before = qemuImage(['-b', 'base.qcow2', '-F', 'qcow2', '10M']);
    const name = Buffer.from('b\xe4se\xff.qcow', 'latin1');
    before.set(name, parse(before).backingFileOffset);
    const header = parse(before);
    const after = parse(
      Uint8Array.from([
        ...replaceExtensions(firstCluster(before), header, [{ type: 0x4242, data: Buffer.alloc(11, 1) }]),
        ...before.subarray(65536),
      ]),
    );
    expect(after.extensions.map(({ type }) => type)).toEqual([0x4242]);
    expect(after.backingFile).toBe(header.backingFile);
    expect(after.backingFileSize).toBe(name.length);
    expect(after.backingFileOffset).toBe(112 + 8 + 16 + 8);
  });

  it('is undone by putting back the old extensions', () => {
    const before = firstCluster(qemuImage(['-b', 'base.qcow2', '-F', 'qcow2', '10M']));
    const header = parseHeader(before, 10 * 65536);
    const without = replaceExtensions(before, header, [], null);
    const lean = parseHeader(without, 10 * 65536);
    expect(lean).toMatchObject({ backingFile: null, backingFileOffset: 0, extensions: [] });
    expect(replaceExtensions(without, lean, header.extensions, header.backingFile)).toEqual(before);
  });
});

describe('the feature name table', () => {
  it('of qemu-img names every feature as this package does', () => {
    const table = findExtension(parse(qemuImage(['10M'])).extensions, 'featureNames');
    expect(decodeFeatureNameTable(table?.data ?? new Uint8Array())).toEqual(Object.values(features));
  });

  it('leaves out entries that mean nothing and a cut-off tail', () => {
    const table = new Uint8Array(48 * 3 + 20);
    table.set([3, 0, 0x41], 0);
    table.set([0, 64, 0x41], 48);
    table.set([2, 63, ...Buffer.alloc(46, 'n')], 96);
    expect(decodeFeatureNameTable(table)).toEqual([{ kind: 'autoclear', bit: 63, name: 'n'.repeat(46) }]);
  });
});

describe('properties', () => {
  const anyExtension = fc.record({
    type: fc.oneof(
      fc.constantFrom(...Object.values(extensionTypes).filter((type) => type !== 0)),
      fc.integer({ min: 1, max: 0xffffffff }),
    ),
    data: fc.uint8Array({ maxLength: 100 }),
  });

  it('scan(encode(x)) = x, known extensions first', () => {
    const list = fc.uniqueArray(anyExtension, { selector: ({ type }) => type, maxLength: 8 });
    fc.assert(
      fc.property(list, (extensions) => {
        const bytes = encodeExtensions(extensions);
        const { extensions: found, damage } = scanExtensions(bytes, 0, bytes.length);
        expect(damage).toBeNull();
        const byType = (a: HeaderExtension, b: HeaderExtension) => a.type - b.type;
        const plain = found.map(({ type, data }) => ({ type, data }));
        expect(plain.sort(byType)).toEqual([...extensions].sort(byType));
        const again = encodeExtensions(found);
        expect(again).toEqual(bytes);
      }),
    );
  });

  it('any bytes give extensions inside the area, and what is wrong with the next one', () => {
    const area = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc
        .array(anyExtension, { maxLength: 4 })
        .chain((list) =>
          fc
            .array(fc.tuple(fc.nat(150), fc.nat(255)), { maxLength: 3 })
            .map((changes) =>
              changes.reduce(
                (bytes, [at, value]) => (at < bytes.length ? bytes.fill(value, at, at + 1) : bytes),
                encodeExtensions(list),
              ),
            ),
        ),
    );
    fc.assert(
      fc.property(area, fc.nat(200), (bytes, start) => {
        const { extensions, damage } = scanExtensions(bytes, Math.min(start, bytes.length), bytes.length);
        if (damage !== null) expect(damage).toBeInstanceOf(Qcow2Error);
        for (const { offset, data } of extensions) {
          expect(data).toEqual(bytes.slice(offset, offset + data.length));
        }
      }),
    );
  });
});
