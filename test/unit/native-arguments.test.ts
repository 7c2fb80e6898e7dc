/** Whatever is passed to the native functions in the wrong place, they answer with a coded error and touch no memory. */
import { describe, expect, it } from 'vitest';
import { L2Flag, native } from '../../lib/native.js';

type Call = (...args: unknown[]) => unknown;
type Make = () => unknown[];

const v3 = L2Flag.zeroFlag;
const table = (): Buffer => Buffer.alloc(512);
const out = (): Float64Array => new Float64Array(256);
const none = (): Float64Array => new Float64Array(0);
const counts = new native.ReferenceCounts(100, 16, 2 ** 20);
const byName = native as unknown as Record<keyof typeof native, Call>;
const plain = (name: keyof typeof native): Call => byName[name];
const method = (name: keyof typeof counts): Call => (counts[name] as Call).bind(counts);

/** Each function with arguments that are right. */
const functions: [name: string, call: Call, right: Make][] = [
  ['mapL2', plain('mapL2'), () => [table(), v3, 16, 0, 8, out()]],
  ['extentRows', plain('extentRows'), () => [table(), v3, 16, 0, 8, 65536, true, out()]],
  ['l2SetData', plain('l2SetData'), () => [table(), v3, 16, 65536, 65536, 65536]],
  ['l2SetZero', plain('l2SetZero'), () => [table(), v3, 16, 65536, 65536, false]],
  ['l2SetUnallocated', plain('l2SetUnallocated'), () => [table(), v3, 16, 65536, 65536]],
  ['l2SetCompressed', plain('l2SetCompressed'), () => [table(), v3, 16, 1, 65536, 100]],
  ['clearCopied', plain('clearCopied'), () => [table(), 512, 8, out()]],
  ['refcountGet', plain('refcountGet'), () => [table(), 4, 5]],
  ['refcountSet', plain('refcountSet'), () => [table(), 4, 5, 6, 7]],
  ['refcountAdd', plain('refcountAdd'), () => [table(), 4, 5, 6, 1]],
  ['refcountNextFree', plain('refcountNextFree'), () => [table(), 4, 5, 6]],
  ['refcountNextUsed', plain('refcountNextUsed'), () => [table(), 4, 5, 6]],
  ['refcountRunEnd', plain('refcountRunEnd'), () => [table(), 4, 5, 6]],
  ['misalignment', plain('misalignment'), () => [table(), 4096]],
  ['extentJson', plain('extentJson'), () => [Float64Array.of(0, 512, 0, 0, -1), table()]],
  ['isZero', plain('isZero'), () => [table()]],
  ['zeroRuns', plain('zeroRuns'), () => [table(), 512, out()]],
  [
    'transfer',
    plain('transfer'),
    () => [
      0,
      none(),
      none(),
      none(),
      none(),
      512,
      Buffer.alloc(2048),
      out(),
      2,
      none(),
      none(),
      1,
      table(),
      true,
    ],
  ],
  ['writeSmall', plain('writeSmall'), () => [1_000_000, table(), 0]],
  [
    'comparePieces',
    plain('comparePieces'),
    () => [none(), none(), none(), Buffer.alloc(1024), Buffer.alloc(16), 2],
  ],
  ['ReferenceCounts.extend', method('extend'), () => [100]],
  ['ReferenceCounts.add', method('add'), () => [65536, 65536, 1]],
  ['ReferenceCounts.addL2Table', method('addL2Table'), () => [table(), v3, 1, out()]],
  [
    'ReferenceCounts.addL2Tables',
    method('addL2Tables'),
    () => [Buffer.alloc(65536), v3, Uint32Array.of(1), out()],
  ],
  ['ReferenceCounts.get', method('get'), () => [5]],
  ['ReferenceCounts.nextUsed', method('nextUsed'), () => [5, 50]],
  ['ReferenceCounts.nextFree', method('nextFree'), () => [5, 50]],
  ['ReferenceCounts.compareBlock', method('compareBlock'), () => [Buffer.alloc(65536), 4, 0, 0, out()]],
  ['ReferenceCounts.fillBlock', method('fillBlock'), () => [Buffer.alloc(65536), 4, 0]],
  ['ReferenceCounts.copiedMismatches', method('copiedMismatches'), () => [table(), v3, 0, out()]],
  ['ReferenceCounts.addToBlock', method('addToBlock'), () => [Buffer.alloc(65536), 4, 0, false]],
  ['ReferenceCounts.lastReferences', method('lastReferences'), () => [Buffer.alloc(65536), 4, 0, 0, out()]],
  ['ReferenceCounts.countBlock', method('countBlock'), () => [Buffer.alloc(65536), 4, 0]],
  [
    'ReferenceCounts.correctCopied',
    method('correctCopied'),
    () => [Buffer.alloc(65536), v3, Uint32Array.of(1), true, out()],
  ],
];

function detached(value: Uint8Array | Uint32Array | Float64Array): unknown {
  const copy = value.slice();
  structuredClone(copy.buffer, { transfer: [copy.buffer] });
  return copy;
}

type TypedArrayMaker = new (buffer: SharedArrayBuffer, offset: number, length: number) => unknown;

function shared(value: Uint8Array | Uint32Array | Float64Array): unknown {
  const maker = Object.getPrototypeOf(value) as { constructor: TypedArrayMaker };
  const Maker = Buffer.isBuffer(value) ? Uint8Array : maker.constructor;
  return new Maker(new SharedArrayBuffer(value.byteLength), 0, value.length);
}

const trap = {
  valueOf(): number {
    throw new Error('the native code converted an object');
  },
};

/** What to put in the place of an argument: a description, the value, and the error's name and code. */
function wrongFor(right: unknown): [what: string, value: unknown, name: string, code: string][] {
  const type = ['TypeError', 'ERR_INVALID_ARG_TYPE'] as const;
  const range = ['RangeError', 'ERR_OUT_OF_RANGE'] as const;
  const objects: [string, unknown, string, string][] = [undefined, null, 'text', 5n, {}, [], trap].map(
    (value) => [typeof value, value, ...type],
  );
  if (typeof right === 'boolean') return [...objects, ['a number', 1, ...type]];
  if (typeof right === 'number') {
    const numbers = [NaN, Infinity, -Infinity, 1.5, 2 ** 53, -(2 ** 53), 1e300];
    return [
      ...objects,
      ['a boolean', true, ...type],
      ...numbers.map((value): [string, unknown, string, string] => [String(value), value, ...range]),
    ];
  }
  const array = right as Uint8Array | Uint32Array | Float64Array;
  return [
    ...objects,
    ['a number', 7, ...type],
    ['an ArrayBuffer', new ArrayBuffer(4096), ...type],
    ['a DataView', new DataView(new ArrayBuffer(4096)), ...type],
    ['an Int16Array', new Int16Array(2048), ...type],
    ['a Uint8ClampedArray', new Uint8ClampedArray(4096), ...type],
    [
      'a Float64Array for bytes or bytes for a Float64Array',
      array instanceof Float64Array ? table() : out(),
      ...type,
    ],
    ['shared memory', shared(array), ...type],
    ['a detached buffer', detached(array), 'TypeError', 'ERR_INVALID_ARG_VALUE'],
  ];
}

describe.each(functions)('%s', (_, call, right) => {
  it('takes the right arguments', async () => {
    await call(...right());
  });

  it.each(right().map((_value, index) => index))('checks argument %i', async (index) => {
    for (const [what, value, name, code] of wrongFor(right()[index])) {
      const args = right();
      args[index] = value;
      let thrown: unknown;
      try {
        await call(...args);
      } catch (error) {
        thrown = error;
      }
      expect(thrown, what).toMatchObject({ name, code });
    }
  });

  it('misses arguments that are not there', () => {
    expect(() => call()).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }));
  });
});

/** Arguments of the right type that do not go together; all of them RangeErrors. */
const outOfRange: [what: string, call: Call, args: unknown[]][] = [
  ['mapL2: entries past the table', plain('mapL2'), [table(), v3, 16, 1, 64, out()]],
  ['mapL2: first past the table', plain('mapL2'), [table(), v3, 16, 65, 0, out()]],
  ['mapL2: an end that wraps', plain('mapL2'), [table(), v3, 16, 2 ** 52, 2 ** 53 - 1, out()]],
  ['mapL2: a negative index', plain('mapL2'), [table(), v3, 16, -1, 1, out()]],
  ['mapL2: cluster bits below 9', plain('mapL2'), [table(), v3, 8, 0, 1, out()]],
  ['mapL2: cluster bits above 21', plain('mapL2'), [table(), v3, 22, 0, 1, out()]],
  ['mapL2: extended entries in small clusters', plain('mapL2'), [table(), 3, 13, 0, 1, out()]],
  ['mapL2: an unknown flag', plain('mapL2'), [table(), 16, 16, 0, 1, out()]],
  ['mapL2: half an entry', plain('mapL2'), [Buffer.alloc(12), v3, 16, 0, 1, out()]],
  ['mapL2: half an extended entry', plain('mapL2'), [Buffer.alloc(24), 3, 16, 0, 1, out()]],
  ['mapL2: a table above a cluster', plain('mapL2'), [Buffer.alloc(1024), v3, 9, 0, 1, out()]],
  ['mapL2: no room for a run', plain('mapL2'), [table(), v3, 16, 0, 1, new Float64Array(3)]],
  [
    'extentRows: no room for a row',
    plain('extentRows'),
    [table(), v3, 16, 0, 1, 0, true, new Float64Array(4)],
  ],
  ['extentRows: past the table', plain('extentRows'), [table(), v3, 16, 1, 64, 0, true, out()]],
  ['extentRows: past all numbers', plain('extentRows'), [table(), v3, 16, 0, 1, 2 ** 53 - 1, true, out()]],
  ['mapL2: no room for 32 runs', plain('mapL2'), [table(), 3, 16, 0, 1, new Float64Array(127)]],
  ['l2SetData: an unaligned start', plain('l2SetData'), [table(), v3, 16, 512, 65536, 65536]],
  ['l2SetData: an unaligned length', plain('l2SetData'), [table(), v3, 16, 0, 512, 65536]],
  ['l2SetData: a range past the table', plain('l2SetData'), [table(), v3, 16, 65536, 64 * 65536, 65536]],
  ['l2SetData: an end that wraps', plain('l2SetData'), [table(), v3, 16, 65536, 2 ** 53 - 65536, 65536]],
  ['l2SetZero: half a subcluster', plain('l2SetZero'), [table(), 3, 16, 1024, 2048, true]],
  ['l2SetUnallocated: past the table', plain('l2SetUnallocated'), [table(), v3, 16, 64 * 65536, 65536]],
  ['l2SetCompressed: past the table', plain('l2SetCompressed'), [table(), v3, 16, 64, 65536, 100]],
  ['refcountGet: past the block', plain('refcountGet'), [table(), 4, 256]],
  ['refcountGet: an order above 6', plain('refcountGet'), [table(), 7, 0]],
  ['refcountGet: an empty block', plain('refcountGet'), [Buffer.alloc(0), 0, 0]],
  ['refcountGet: an odd block', plain('refcountGet'), [Buffer.alloc(7), 0, 0]],
  ['refcountSet: past the block', plain('refcountSet'), [table(), 4, 250, 7, 1]],
  ['refcountAdd: past the block', plain('refcountAdd'), [table(), 0, 4096, 1, 1]],
  ['refcountNextFree: past the block', plain('refcountNextFree'), [table(), 4, 0, 257]],
  ['refcountRunEnd: of nothing', plain('refcountRunEnd'), [table(), 4, 6, 6]],
  ['refcountNextUsed: backwards', plain('refcountNextUsed'), [table(), 4, 6, 5]],
  ['zeroRuns: a granularity of 0', plain('zeroRuns'), [table(), 0, out()]],
  ['zeroRuns: no room to get on', plain('zeroRuns'), [table(), 512, new Float64Array(1)]],
  ['extentJson: no room for a text', plain('extentJson'), [new Float64Array(5), Buffer.alloc(191)]],
  ['addL2Table: extended in small clusters', method('addL2Table'), [table(), 16, 1, out()]],
  ['addL2Tables: half a table', method('addL2Tables'), [Buffer.alloc(512), v3, Uint32Array.of(1), out()]],
  ['addL2Tables: times missing', method('addL2Tables'), [Buffer.alloc(65536), v3, new Uint32Array(0), out()]],
  ['nextUsed: backwards', method('nextUsed'), [6, 5]],
  ['compareBlock: not a block', method('compareBlock'), [Buffer.alloc(512), 4, 0, 0, out()]],
  ['compareBlock: past the block', method('compareBlock'), [Buffer.alloc(65536), 4, 0, 32769, out()]],
  ['compareBlock: no room', method('compareBlock'), [Buffer.alloc(65536), 4, 0, 0, new Float64Array(3)]],
  ['fillBlock: not a block', method('fillBlock'), [Buffer.alloc(131072), 4, 0]],
  ['copiedMismatches: past the table', method('copiedMismatches'), [table(), v3, 65, out()]],
  ['copiedMismatches: no room', method('copiedMismatches'), [table(), v3, 0, new Float64Array(1)]],
  ['addToBlock: not a block', method('addToBlock'), [Buffer.alloc(512), 4, 0, true]],
  ['lastReferences: past the block', method('lastReferences'), [Buffer.alloc(65536), 4, 0, 32769, out()]],
  ['lastReferences: no room', method('lastReferences'), [Buffer.alloc(65536), 4, 0, 0, new Float64Array(1)]],
  ['countBlock: not a block', method('countBlock'), [Buffer.alloc(131072), 4, 0]],
  [
    'correctCopied: half a table',
    method('correctCopied'),
    [Buffer.alloc(512), v3, Uint32Array.of(1), true, out()],
  ],
  [
    'correctCopied: no room',
    method('correctCopied'),
    [Buffer.alloc(65536), v3, Uint32Array.of(1), true, new Float64Array(1)],
  ],
  ['clearCopied: half a table', plain('clearCopied'), [table(), 1024, 8, out()]],
  ['clearCopied: a table of nothing', plain('clearCopied'), [table(), 0, 8, out()]],
  ['clearCopied: half an entry', plain('clearCopied'), [table(), 8, 16, out()]],
  ['clearCopied: no room', plain('clearCopied'), [table(), 512, 8, new Float64Array(1)]],
];

describe('arguments that do not go together', () => {
  it.each([
    ['half a row', [0, 512, 0]],
    ['a type that there is not', [0, 512, 5, 0, -1]],
    ['half a byte', [0, 0.5, 0, 0, -1]],
    ['what is no number', [0, 512, 0, NaN, -1]],
    ['a negative start', [-1, 512, 0, 0, -1]],
  ])('extentJson refuses %s', (_, row) => {
    expect(() => native.extentJson(Float64Array.from(row), table())).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }),
    );
  });

  it.each(outOfRange)('%s', (_, call, args) => {
    expect(() => call(...args)).toThrow(
      expect.objectContaining({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' }),
    );
  });

  it('addL2Tables refuses memory that could shrink under the worker', () => {
    const resizable = Reflect.construct(ArrayBuffer, [65536, { maxByteLength: 131072 }]) as ArrayBuffer;
    expect(() => counts.addL2Tables(new Uint8Array(resizable), v3, Uint32Array.of(1), out())).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }),
    );
  });

  it('addL2Tables stays safe when a getter of its argument detaches the others', () => {
    const victim = new Uint32Array(1);
    const tables = new Uint8Array(65536);
    Object.defineProperty(tables.buffer, 'resizable', {
      get: () => {
        structuredClone(victim.buffer, { transfer: [victim.buffer] });
        return false;
      },
    });
    expect(() => counts.addL2Tables(tables, v3, victim, out())).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }),
    );
  });

  it('the class is no function, and its methods want an object of the class', () => {
    const construct = native.ReferenceCounts as unknown as Call;
    expect(() => construct(100, 16, 2 ** 20)).toThrow(
      expect.objectContaining({ code: 'ERR_CONSTRUCT_CALL_REQUIRED' }),
    );
    for (const self of [undefined, {}, native, Object.create(counts) as object, 5]) {
      expect(() => counts.get.call(self as typeof counts, 0)).toThrow(
        expect.objectContaining({ name: 'TypeError' }),
      );
    }
    for (const args of [[-1, 16, 0], [100, 8, 0], [100, 22, 0], [100, 16, -1], ['100', 16, 0], []]) {
      expect(() => Reflect.construct(native.ReferenceCounts, args) as unknown).toThrow(
        expect.objectContaining({
          code: expect.stringMatching(/^ERR_(OUT_OF_RANGE|INVALID_ARG_TYPE)$/) as string,
        }),
      );
    }
  });
});
