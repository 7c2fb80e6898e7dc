/**
 * Command lines put together at random, run by the real qemu-img and by this package on equal files: what they print, how
 * they end, and what is then in the files.
 *
 * `QCOW2_LINES` is how many to run, `QCOW2_LINES_SEED` the seed of the first; one that fails is named by its seed.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../support/pattern.js';
import { Beside } from './beside.js';
import { makeFixtures } from './fixtures.js';
import { differences } from './known-differences.js';
import type { CommandSpec } from '../../lib/cli/specs/shared.js';
import { commandTables, randomLine } from './random-lines.js';
import { removeDirectories } from './run.js';

const lines = Number(process.env['QCOW2_LINES'] ?? 150);
const firstSeed = Number(process.env['QCOW2_LINES_SEED'] ?? 1);

let fixtures: string;
let beside: Beside;
beforeAll(() => {
  fixtures = makeFixtures();
  beside = new Beside(fixtures);
});
afterAll(() => {
  beside.remove();
  removeDirectories(fixtures);
});

describe('command lines at random', () => {
  it(
    `do what qemu-img does: ${lines} from seed ${firstSeed}`,
    async () => {
      const found: string[] = [];
      for (let seed = firstSeed; seed < firstSeed + lines; seed += 1) {
        const args = randomLine(new Random(seed));
        const differing = differences(args, await beside.run(args));
        if (differing.length > 0)
          found.push([`${seed}: ${args.map(quoted).join(' ')}`, ...differing].join('\n  '));
      }
      expect(found.length, found.join('\n')).toBe(0);
    },
    Math.max(60_000, lines * 1000),
  );
});

/** The letters that came after qemu-img 7.2, which are held against the documentation. */
const laterLetters: Readonly<Record<string, string>> = {
  create: 'B',
  convert: 'b',
  measure: 's',
  rebase: 'Bc',
  snapshot: 'f',
};

describe('the tables they are made from', () => {
  it.each(Object.entries(commandTables))('have every option letter of %s', async (command, { options }) => {
    const { spec } = (await import(`../../lib/cli/specs/${command}.ts`)) as { spec: CommandSpec };
    const letters = spec.options.flatMap(({ name, letters = '' }) =>
      name === 'help' ? [] : Array.from(letters),
    );
    const missing = letters.filter((letter) => !Object.hasOwn(options, `-${letter}`));
    expect(missing.sort().join('')).toBe(laterLetters[command] ?? '');
  });
});

const quoted = (word: string): string => (/^[\w./,=:+-]+$/.test(word) ? word : `'${word}'`);
