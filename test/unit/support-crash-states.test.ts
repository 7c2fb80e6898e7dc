import { describe, expect, it } from 'vitest';
import { MemoryStorage } from '../../lib/storage/memory.js';
import { crashStates } from '../support/crash-states.js';
import type { CrashOptions } from '../support/crash-states.js';
import { GuestHistory } from '../support/guest-history.js';
import { Random, pattern } from '../support/pattern.js';
import { PlainDisk } from '../support/plain-disk.js';
import { RecordingStorage } from '../support/recording-storage.js';
import type { RecordingOptions } from '../support/recording-storage.js';

/** A store whose content reads as text, so that a state can be written down. */
async function recorded(text: string, options: RecordingOptions = {}): Promise<RecordingStorage> {
  return RecordingStorage.over(new MemoryStorage(Buffer.from(text)), options);
}

async function statesOf(storage: RecordingStorage, options: CrashOptions = {}) {
  const states: { text: string; from: number; to: number }[] = [];
  for await (const { content, from, to } of crashStates(storage.log, options)) {
    states.push({ text: content.toBuffer().toString(), from, to });
  }
  return states;
}

async function textsOf(storage: RecordingStorage, options: CrashOptions = {}): Promise<string[]> {
  return [...new Set((await statesOf(storage, options)).map(({ text }) => text))].sort();
}

const text = (value: string): Buffer => Buffer.from(value);

describe('crash states', () => {
  it('are all parts of what no flush has covered, on top of all that one has', async () => {
    const storage = await recorded('....');
    await storage.write(text('A'), 0);
    await storage.flush();
    await storage.write(text('B'), 1);
    await storage.write(text('C'), 2);
    await storage.flush();
    await storage.write(text('D'), 3);
    expect(await textsOf(storage)).toEqual(['....', 'A...', 'AB..', 'A.C.', 'ABC.', 'ABCD'].sort());
  });

  it('tell the moments at which they can be', async () => {
    const storage = await recorded('..');
    await storage.write(text('A'), 0); // ticks 1, 2
    await storage.flush(); // ticks 3, 4
    await storage.write(text('B'), 1); // ticks 5, 6
    expect(await statesOf(storage)).toEqual([
      { text: '..', from: 0, to: 3 },
      { text: 'A.', from: 1, to: 3 },
      { text: 'A.', from: 4, to: Infinity },
      { text: 'AB', from: 5, to: Infinity },
    ]);
  });

  it('may lack a write that had not settled when the flush was called', async () => {
    const storage = await recorded('..');
    const late = storage.write(text('B'), 1);
    await Promise.all([late, storage.flush()]);
    expect(await textsOf(storage)).toEqual(['..', '.B']);
    const again = await recorded('..');
    await again.write(text('B'), 1);
    await again.flush();
    const afterFlush = (await statesOf(again)).filter(({ from }) => from >= 4);
    expect(afterFlush.map((state) => state.text)).toEqual(['.B']);
  });

  it('may or may not hold what a failed write or a failed flush left', async () => {
    const failedWrite = await recorded('..', { fault: { nth: 0, of: 'changes', code: 'EIO' } });
    await expect(failedWrite.write(text('A'), 0)).rejects.toMatchObject({ code: 'EIO' });
    await failedWrite.flush();
    expect(await textsOf(failedWrite)).toEqual(['..', 'A.']);

    const failedFlush = await recorded('..', { fault: { nth: 1, of: 'changes', code: 'EIO' } });
    await failedFlush.write(text('A'), 0);
    await expect(failedFlush.flush()).rejects.toMatchObject({ code: 'EIO' });
    expect(await textsOf(failedFlush)).toEqual(['..', 'A.']);
  });

  it('apply what survives in the order in which it was asked for', async () => {
    const storage = await recorded('..');
    await storage.write(text('A'), 0);
    await storage.write(text('B'), 0);
    expect(await textsOf(storage)).toEqual(['..', 'A.', 'B.']);
  });

  it('know truncate, punch and allocate', async () => {
    const cut = await recorded('abc');
    await cut.truncate(1);
    await cut.truncate(2);
    expect(await textsOf(cut)).toEqual(['a', 'a\0', 'ab', 'abc']);
    const holed = await recorded('abc');
    await holed.punch(1, 1);
    await holed.allocate(3, 1);
    expect(await textsOf(holed)).toEqual(['a\0c', 'a\0c\0', 'abc', 'abc\0']);
  });

  it('tear a long write at the units of the medium only', async () => {
    const before = Buffer.alloc(4096, '.');
    const storage = await RecordingStorage.over(new MemoryStorage(before));
    await storage.write(Buffer.alloc(1000, 'x'), 300);
    const shapes = new Set<string>();
    for await (const { content } of crashStates(storage.log, { tornUnits: [512], tornSamples: 200 })) {
      const bytes = content.toBuffer();
      const parts = [
        [300, 512],
        [512, 1024],
        [1024, 1300],
      ].map(([start, end]) => {
        const part = bytes.subarray(start, end).toString();
        expect(part).toMatch(/^(x+|\.+)$/);
        return part[0];
      });
      shapes.add(parts.join(''));
      bytes.fill('.', 300, 1300);
      expect(bytes.equals(before)).toBe(true);
    }
    expect(shapes.size).toBe(8);
  });

  it('of a long epoch hold every prefix, every single loss and every single survivor, and stay few', async () => {
    const count = 40;
    const storage = await recorded('.'.repeat(count));
    for (let i = 0; i < count; i += 1) await storage.write(text('x'), i);
    const texts = await textsOf(storage, { samples: 50 });
    expect(texts.length).toBeLessThanOrEqual(3 * count + 1 + 50);
    for (let i = 0; i < count; i += 1) {
      expect(texts).toContain('x'.repeat(i) + '.'.repeat(count - i));
      expect(texts).toContain('x'.repeat(i) + '.' + 'x'.repeat(count - i - 1));
      expect(texts).toContain('.'.repeat(i) + 'x' + '.'.repeat(count - i - 1));
    }
  });

  it('of two storages know which of them a flush was for', async () => {
    const first = await recorded('..');
    const second = await recorded('..', { beside: first });
    await first.write(text('A'), 0);
    await second.write(text('B'), 0);
    await first.flush();
    await second.write(text('C'), 1);
    const late: string[] = [];
    const all = new Set<string>();
    for await (const { contents, from } of crashStates(first.log)) {
      const both = contents.map((content) => content.toBuffer().toString()).join('|');
      all.add(both);
      if (from >= 6) late.push(both);
    }
    expect([...all].sort()).toEqual(['..|..', '..|B.', 'A.|..', 'A.|.C', 'A.|B.', 'A.|BC'].sort());
    expect([...new Set(late)].every((both) => both.startsWith('A.'))).toBe(true);
    await second.flush();
    const last: string[] = [];
    for await (const { contents, from } of crashStates(first.log)) {
      if (from >= 10) last.push(contents.map((content) => content.toBuffer().toString()).join('|'));
    }
    expect(last).toEqual(['A.|BC']);
  });

  it('are the same for the same seed', async () => {
    const storage = await recorded('.'.repeat(20));
    for (let i = 0; i < 20; i += 1) await storage.write(text('x'), i);
    expect(await statesOf(storage, { seed: 5 })).toEqual(await statesOf(storage, { seed: 5 }));
    expect(await textsOf(storage, { seed: 5 })).not.toEqual(await textsOf(storage, { seed: 6 }));
  });
});

const slotSize = 512;

/** A disk of one sector that switches between two copies by a pointer: safe with its barrier, unsafe without. */
class TwoSlots {
  #current = 0;
  readonly #storage: RecordingStorage | MemoryStorage;

  constructor(storage: RecordingStorage | MemoryStorage) {
    this.#storage = storage;
  }

  async read(buffer: Buffer): Promise<void> {
    const pointer = Buffer.alloc(1);
    await this.#storage.read(pointer, 0);
    await this.#storage.read(buffer, (1 + (pointer[0] ?? 0)) * slotSize);
  }

  async write(data: Uint8Array): Promise<void> {
    this.#current = 1 - this.#current;
    await this.#storage.write(data, (1 + this.#current) * slotSize);
    await this.#storage.flush();
    await this.#storage.write(Buffer.of(this.#current), 0);
  }
}

/** Writes to a TwoSlots three times, with a flush after each, and looks at each crash state. */
async function problemsOfTwoSlots(options: RecordingOptions): Promise<string[]> {
  const initial = new MemoryStorage(new Uint8Array(2 * slotSize));
  // What the unused slot holds must never be seen.
  await initial.write(pattern(99, slotSize), 2 * slotSize);
  const recording = await RecordingStorage.over(initial, options);
  const disk = new TwoSlots(recording);
  const history = new GuestHistory(new PlainDisk(slotSize), () => recording.mark());
  for (let seed = 1; seed <= 3; seed += 1) {
    const data = pattern(seed, slotSize);
    await history.writing(data, 0, () => disk.write(data));
    await history.flushing(() => recording.flush());
  }
  const problems: string[] = [];
  for await (const { content, from, to } of crashStates(recording.log)) {
    const crashed = new TwoSlots(content);
    const problem = await history.firstProblem((buffer) => crashed.read(buffer), { from, to });
    if (problem !== null) problems.push(problem);
  }
  return problems;
}

describe('the guest history', () => {
  it('finds nothing wrong with a store that keeps its promises', async () => {
    expect(await problemsOfTwoSlots({})).toEqual([]);
    expect(await problemsOfTwoSlots({ shuffle: new Random(3) })).toEqual([]);
  });

  it('finds each barrier that is missing', async () => {
    // The last flush only makes the last pointer durable: without it, the promise of the guest's flush is broken.
    for (let ignoredFlush = 0; ignoredFlush < 6; ignoredFlush += 1) {
      expect(await problemsOfTwoSlots({ ignoredFlush }), `flush ${ignoredFlush}`).not.toEqual([]);
    }
  });
});
