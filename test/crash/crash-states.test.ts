/** Every state that a crash may leave of every workload on every kind of image; `npm run test:crash` tries many more. */
import { afterAll, describe, expect, it } from 'vitest';
import { judgeStates, runWorkload, type JudgeOptions } from './crash-run.js';
import { fullKinds, kinds, spaciousKinds, type Kind } from './kinds.js';
import { compactions, fillUp, randomWorkload, workloads, type Workload } from './workloads.js';

const isLong = process.env.QCOW2_CRASH === 'long';
const firstSeed = Number(process.env.QCOW2_SEED ?? 1);
/** Random workloads on each kind. */
const randomWorkloads = Number(process.env.QCOW2_RANDOM ?? (isLong ? 200 : 2));
const options: JudgeOptions = isLong
  ? { exhaustiveUpTo: 10, samples: 1000, tornSamples: 50, recoverEvery: 3, qemuEvery: 500 }
  : { exhaustiveUpTo: 3, samples: 3, tornSamples: 2, recoverEvery: 9, qemuEvery: 150 };

/** For images whose states take long to judge. */
const fewest: JudgeOptions = { ...options, exhaustiveUpTo: 1, samples: 1, tornSamples: 1, recoverEvery: 20 };

const totals = { workloads: 0, states: 0, recovered: 0, checkedByQemu: 0 };

describe.each(kinds)('a crash with $name', (kind) => {
  it.each(workloadsFor(kind))(
    'during: $name',
    (workload) => survives(kind, workload, options),
    isLong ? 3_600_000 : 60_000,
  );
});

describe.each(spaciousKinds)('a crash with $name', (kind) => {
  const fits = compactions.filter((workload) => workload.fits?.(kind) ?? true);
  const isShort = kind.slow && !isLong;
  it.each(isShort ? fits.filter(({ name }) => name === 'compact after discarding nearly all') : fits)(
    'during: $name',
    (workload) => survives(kind, workload, isShort ? fewest : options),
    isLong ? 3_600_000 : 60_000,
  );
});

describe.each(fullKinds)('a crash with $name', (kind) => {
  const chosen = isLong ? options : fewest;
  it(`during: ${fillUp.name}`, () => survives(kind, fillUp, chosen), isLong ? 3_600_000 : 60_000);
});

afterAll(() => {
  console.log(
    `crash states tried: ${totals.states} of ${totals.workloads} workloads; writing went on after ` +
      `${totals.recovered}, qemu-img checked ${totals.checkedByQemu}`,
  );
});

/**
 * All that fit, and random ones. A short run has every other pair of kind and workload, and few where unlocking an
 * encrypted image takes long.
 */
function workloadsFor(kind: Kind): Workload[] {
  const isChosen = (index: number): boolean => isLong || (index + kinds.indexOf(kind)) % 2 === 0;
  const own = [...workloads, ...compactions].filter(
    ({ fits }, index) => isChosen(index) && (fits?.(kind) ?? true),
  );
  if (kind.slow && !isLong) return own.slice(0, 1);
  const random = Array.from({ length: randomWorkloads }, (_, i) => randomWorkload(firstSeed + i, kind));
  return [...own, ...random];
}

async function survives(kind: Kind, workload: Workload, judge: JudgeOptions): Promise<void> {
  const run = await runWorkload(kind, await kind.make(), workload);
  const { problem, states, recovered, checkedByQemu } = await judgeStates(run, judge);
  totals.workloads += 1;
  totals.states += states;
  totals.recovered += recovered;
  totals.checkedByQemu += checkedByQemu;
  expect(problem).toBe(null);
}
