/** Snapshot tables of qemu-img, tables that go beyond what this package knows, and hostile ones. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Qcow2Error } from '../../lib/errors.js';
import { geometry } from '../../lib/format/geometry.js';
import { headerBytesNeeded, parseHeader } from '../../lib/format/header.js';
import {
  checkSnapshotL1,
  encodeSnapshotTable,
  maxSnapshotTableBytes,
  parseSnapshotTable,
  snapshotNames,
  withFullExtraData,
  type SnapshotEntry,
} from '../../lib/format/snapshot-table.js';
import { hostOffset } from '../../lib/format/units.js';
import { patched, qemuImage, qemuImg } from '../support/format-images.js';

const at0 = hostOffset(0);
const parseAll = (bytes: Uint8Array, count: number) => parseSnapshotTable(bytes, count, at0, bytes.length);

describe('tables of qemu-img', () => {
  it('tell what qemu-img info tells and encode to the same bytes', () => {
    let listed: Record<string, unknown>[] = [];
    const image = qemuImage(['10M'], (directory, name) => {
      for (const snapshot of ['a', 'zwölf', 'a longer name']) {
        qemuImg(directory, 'snapshot', '-c', snapshot, name);
      }
      qemuImg(directory, 'resize', '-q', name, '20M');
      qemuImg(directory, 'snapshot', '-c', 'after growing', name);
      listed = (
        JSON.parse(qemuImg(directory, 'info', '--output=json', name)) as {
          snapshots: Record<string, unknown>[];
        }
      ).snapshots;
    });
    const header = parseHeader(image.subarray(0, headerBytesNeeded(image, image.length)), image.length);
    const bytes = image.subarray(header.snapshotsOffset);
    const table = parseSnapshotTable(bytes, header.nbSnapshots, header.snapshotsOffset, bytes.length);
    const entries = table?.entries ?? [];
    expect(
      entries.map((entry) => ({
        id: entry.id,
        name: entry.name,
        'date-sec': entry.dateSeconds,
        'date-nsec': entry.dateNanoseconds,
        'vm-state-size': entry.vmStateSize,
        'vm-clock-sec': Number(entry.vmClockNanoseconds / 1_000_000_000n),
        'vm-clock-nsec': Number(entry.vmClockNanoseconds % 1_000_000_000n),
        icount: Number(entry.icount),
      })),
    ).toEqual(listed.map((entry) => ({ icount: 0, ...entry })));
    expect(entries.map(({ diskSize }) => diskSize)).toEqual([1, 1, 1, 2].map((tens) => tens * 10485760));
    expect(
      entries.map((entry) => checkSnapshotL1(entry, header.size, header.geometry, image.length)),
    ).toEqual(entries.map(() => null));
    const encoded = encodeSnapshotTable(entries);
    expect(encoded).toHaveLength(table?.length ?? -1);
    // QEMU leaves out the padding of the last entry, which may end the file.
    const shared = Math.min(encoded.length, bytes.length);
    expect(encoded.slice(0, shared)).toEqual(bytes.slice(0, shared));
    expect(encoded.length - shared).toBeLessThan(8);
  });
});

const example: SnapshotEntry = {
  ...snapshotNames('7', 'näme'),
  l1TableOffset: hostOffset(0x50000),
  l1Size: 3,
  dateSeconds: 1,
  dateNanoseconds: 2,
  vmClockNanoseconds: 3n,
  vmStateSize: 4,
  diskSize: 5,
  icount: 6n,
  extraData: Uint8Array.from({ length: 40 }, (_, index) => (index < 24 ? 0 : index)),
};

describe('entries', () => {
  it('keep extra data past what is known', () => {
    const [entry] = parseAll(encodeSnapshotTable([example]), 1)?.entries ?? [];
    expect(entry?.extraData.slice(24)).toEqual(example.extraData.slice(24));
    expect(entry).toMatchObject({ vmStateSize: 4, diskSize: 5, icount: 6n });
  });

  it('without extra data take the 32-bit VM state size and tell no disk size', () => {
    const short = { ...example, extraData: new Uint8Array(0) };
    const bytes = encodeSnapshotTable([short]);
    expect(bytes).toHaveLength(48);
    expect(parseAll(bytes, 1)?.entries[0]).toMatchObject({ vmStateSize: 4, diskSize: null, icount: null });
    expect(() => encodeSnapshotTable([{ ...short, vmStateSize: 2 ** 32 }])).toThrow(/extra data/);
    const full = withFullExtraData({ ...short, diskSize: null, icount: null }, 99);
    expect(parseAll(encodeSnapshotTable([full]), 1)?.entries[0]).toMatchObject({
      vmStateSize: 4,
      diskSize: 99,
      icount: null,
    });
  });

  it('use the 64-bit VM state size when there is one', () => {
    const bytes = encodeSnapshotTable([{ ...example, vmStateSize: 2 ** 40 }]);
    expect(parseAll(patched(bytes, [32, 4, 77]), 1)?.entries[0]?.vmStateSize).toBe(2 ** 40);
  });

  it('need a sound L1 table to be opened', () => {
    const shape = geometry(16, 4, false);
    const check = (change: Partial<SnapshotEntry>) =>
      checkSnapshotL1({ ...example, ...change }, 100, shape, 0x60000)?.message ?? null;
    expect(check({})).toBeNull();
    expect(check({ l1TableOffset: hostOffset(0x50001) })).toContain('not aligned');
    expect(check({ l1TableOffset: hostOffset(0x60000) })).toContain('past the end');
    expect(check({ l1TableOffset: at0 })).toContain('header');
    expect(check({ l1Size: 8193 })).toContain('past the end');
    expect(check({ l1Size: 2 ** 32 - 1 })).toContain('32 MiB');
    expect(check({ diskSize: 4 * shape.l2Coverage })).toContain('needs 4');
  });
});

describe('hostile tables', () => {
  const bytes = encodeSnapshotTable([example, example]);

  it('ask for more bytes until the end of the file, then fail', () => {
    for (let length = 0; length < bytes.length - 8; length += 1) {
      const part = bytes.subarray(0, length);
      expect(parseSnapshotTable(part, 2, at0, bytes.length)).toBeNull();
      expect(() => parseSnapshotTable(part, 2, at0, length)).toThrow(/entry [12] of 2 at 0x.*past the end/);
    }
  });

  it('may not be larger than QEMU allows, however long the file is', () => {
    const entry = encodeSnapshotTable([{ ...example, nameBytes: new Uint8Array(65000) }]);
    const count = Math.ceil(maxSnapshotTableBytes / entry.length) + 1;
    const table = new Uint8Array(entry.length * count);
    for (let at = 0; at < table.length; at += entry.length) table.set(entry, at);
    expect(() => parseAll(table, count)).toThrow(Qcow2Error);
  });

  it.each([
    ['too much extra data', [36, 4, 1025], 'ERR_QCOW2_UNSUPPORTED'],
    ['extra data whose length would wrap', [36, 4, 0xffffffff], 'ERR_QCOW2_UNSUPPORTED'],
    ['an L1 table past 2^53', [0, 8, 1n << 53n], 'ERR_QCOW2_UNSUPPORTED'],
    ['a disk past 2^53', [48, 8, 1n << 63n], 'ERR_QCOW2_UNSUPPORTED'],
    ['a name past the end', [14, 2, 0xffff], 'ERR_QCOW2_CORRUPT'],
  ] as [string, [number, 2 | 4 | 8, number | bigint], string][])('%s', (_, change, code) => {
    expect(() => parseAll(patched(bytes, change), 2)).toThrow(
      expect.objectContaining({ code, feature: 'snapshot table', offset: 0 }) as Error,
    );
  });

  it('any bytes give entries, a wish for more, or a Qcow2Error', () => {
    const changes = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 5 });
    fc.assert(
      fc.property(changes, fc.nat(5), fc.nat(bytes.length), (list, count, length) => {
        const damaged = bytes.slice(0, length);
        for (const [at, value] of list) if (at < length) damaged[at] = value;
        try {
          const table = parseSnapshotTable(damaged, count, at0, bytes.length);
          if (table !== null) expect(table.entries).toHaveLength(count);
        } catch (error) {
          expect(error).toBeInstanceOf(Qcow2Error);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

it('parse(encode(x)) = x', () => {
  const u32 = fc.integer({ min: 0, max: 0xffffffff });
  const entry = fc
    .record({
      l1TableOffset: fc.maxSafeNat().map(hostOffset),
      l1Size: u32,
      names: fc.tuple(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' })),
      dateSeconds: u32,
      dateNanoseconds: u32,
      vmClockNanoseconds: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      vmStateSize: fc.maxSafeNat(),
      diskSize: fc.maxSafeNat(),
      icount: fc.option(fc.bigInt({ min: 0n, max: (1n << 64n) - 2n })),
      tail: fc.uint8Array({ maxLength: 50 }),
    })
    .map(({ names, tail, ...rest }): SnapshotEntry => ({
      ...rest,
      ...snapshotNames(...names),
      extraData: Uint8Array.from([...new Uint8Array(24), ...tail]),
    }));
  /** What the encoder writes into the extra data is told by the other fields. */
  const withoutKnown = ({ extraData, ...rest }: SnapshotEntry) => ({ ...rest, tail: extraData.slice(24) });
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 5 }), (entries) => {
      const bytes = encodeSnapshotTable(entries);
      const table = parseAll(bytes, entries.length);
      expect(table?.length).toBe(bytes.length);
      expect(table?.entries.map(withoutKnown)).toEqual(entries.map(withoutKnown));
      expect(encodeSnapshotTable(table?.entries ?? [])).toEqual(bytes);
    }),
  );
});
