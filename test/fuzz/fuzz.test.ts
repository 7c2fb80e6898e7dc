/**
 * Damaged images by the thousand. The seed of each names it: `npm run fuzz -- --time 600 --seed 1` runs for long, and
 * `--seed N --cases 1` runs one again.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { within } from '../support/patience.js';
import { Random } from '../support/pattern.js';
import { drive, type Tally } from './drive.js';
import { mutate } from './mutate.js';
import { chooseSeed, makeSeeds } from './seeds.js';

const seconds = Number(process.env['QCOW2_FUZZ_SECONDS'] ?? 10);
const firstSeed = Number(process.env['QCOW2_FUZZ_SEED'] ?? 1);
const mostCases = Number(process.env['QCOW2_FUZZ_CASES'] ?? Infinity);
/** Far longer than any case takes, seconds. */
const patience = 20;

describe('fuzzing whole images', () => {
  it(
    `finds nothing in ${seconds} s from seed ${firstSeed}`,
    async () => {
      const seeds = await makeSeeds();
      const tally: Tally = { refused: 0, opened: 0, clean: 0, repaired: 0 };
      const end = Date.now() + seconds * 1000;
      let seed = firstSeed;
      for (; Date.now() < end && seed < firstSeed + mostCases; seed += 1) {
        const random = new Random(seed);
        const from = chooseSeed(seeds, random);
        const bytes = mutate(from.bytes, random);
        await within(patience, drive(bytes, random, tally), 'it').catch(async (error: unknown) => {
          throw new Error(`seed ${seed}, made from "${from.name}", kept as ${await keep(seed, bytes)}`, {
            cause: error,
          });
        });
      }
      console.log(`fuzzed ${seed - firstSeed} images: ${JSON.stringify(tally)}`);
      expect(seed).toBeGreaterThan(firstSeed);
    },
    seconds * 1000 + 120_000,
  );
});

async function keep(seed: number, bytes: Buffer): Promise<string> {
  const directory = join(tmpdir(), 'qcow2-fuzz');
  await mkdir(directory, { recursive: true });
  const path = join(directory, `${seed}.qcow2`);
  await writeFile(path, bytes);
  return path;
}
