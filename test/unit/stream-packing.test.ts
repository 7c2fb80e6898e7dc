/** The clusters of a compressed stream, held to a count of who lies in each: streams of every length, exact fits too. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { geometry } from '../../lib/format/geometry.js';
import { Packing } from '../../lib/streams/packing.js';
import { pattern } from '../support/pattern.js';

const clusterSize = 512;
/** 64-bit refcounts: a refcount block counts 64 clusters. */
const shape = geometry(9, 6, false);
/** Clusters before the data. */
const front = 3;

type Step = { readonly pack: number } | 'store' | 'table';

interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What lies in the clusters behind the front, and what the refcount blocks say of all of them. */
function pack(steps: readonly Step[]): {
  pieces: Piece[];
  output: Buffer;
  refcounts: number[];
  blocks: number[];
} {
  const packing = new Packing(shape, front);
  const pieces: Piece[] = [];
  const output: Buffer[] = [];
  for (const [seed, step] of steps.entries()) {
    const bytes = pattern(seed + 1, typeof step === 'object' ? step.pack : clusterSize);
    if (step === 'store') packing.store(bytes, (offset) => pieces.push({ offset, bytes }));
    else if (step === 'table') {
      packing.close();
      pieces.push({ offset: packing.table(bytes) * clusterSize, bytes });
    } else pieces.push({ offset: packing.pack(bytes), bytes });
    output.push(...packing.take().map((part) => Buffer.from(part)));
  }
  const end = packing.end();
  output.push(...packing.take().map((part) => Buffer.from(part)));
  const all = Buffer.concat([Buffer.alloc(front * clusterSize), ...output]);
  expect(all.length).toBe(end * clusterSize);
  const refcounts = packing.blocks.flatMap((block) =>
    Array.from({ length: 64 }, (_, i) => Number(all.readBigUInt64BE(block * clusterSize + i * 8))),
  );
  return { pieces, output: all, refcounts, blocks: packing.blocks };
}

function expectCounted(steps: readonly Step[]): void {
  const { pieces, output, refcounts, blocks } = pack(steps);
  const expected = new Array<number>(refcounts.length).fill(0);
  const count = (cluster: number): void => void (expected[cluster] = (expected[cluster] ?? 0) + 1);
  for (let cluster = 0; cluster < front; cluster++) count(cluster);
  blocks.forEach(count);
  for (const { offset, bytes } of pieces) {
    expect(output.subarray(offset, offset + bytes.length).equals(bytes)).toBe(true);
    const last = Math.floor((offset + bytes.length - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) count(cluster);
  }
  expect(refcounts).toEqual(expected);
}

describe('each cluster is counted once for everything that lies in it', () => {
  it.each<{ name: string; steps: Step[] }>([
    {
      name: 'a stream that ends where its cluster ends',
      steps: [{ pack: 200 }, { pack: 312 }, { pack: 100 }],
    },
    { name: 'the same before a cluster that is stored', steps: [{ pack: 512 }, 'store', { pack: 1 }] },
    { name: 'the same behind one that waits', steps: [{ pack: 200 }, 'store', { pack: 312 }, { pack: 9 }] },
    { name: 'the same before a table', steps: [{ pack: 500 }, { pack: 12 }, 'table', { pack: 9 }] },
    { name: 'every cluster filled to its end', steps: Array.from({ length: 300 }, () => ({ pack: 256 })) },
  ])('$name', ({ steps }) => expectCounted(steps));

  it('whatever comes', () => {
    const length = fc.oneof(fc.integer({ min: 1, max: clusterSize }), fc.constantFrom(128, 256, 384, 512));
    const step = fc.oneof(
      { weight: 8, arbitrary: length.map((bytes): Step => ({ pack: bytes })) },
      { weight: 2, arbitrary: fc.constantFrom<Step>('store', 'table') },
    );
    fc.assert(fc.property(fc.array(step, { minLength: 1, maxLength: 400, size: 'max' }), expectCounted), {
      numRuns: 60,
    });
  });
});
