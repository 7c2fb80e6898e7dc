/** The check of the crash suite: every barrier of the library is taken out in turn, and the suite must notice. */
import { describe, expect, it } from 'vitest';
import { BarrierProbe } from './barrier-probe.js';
import { judgeStates, runWorkload, type JudgeOptions } from './crash-run.js';
import {
  compactions,
  fillUp,
  fullKinds,
  kinds,
  spaciousKinds,
  workloads,
  type Kind,
  type Start,
  type Workload,
} from './workloads.js';

interface Case {
  readonly kind: Kind;
  readonly start: Start;
  readonly workload: Workload;
}

/**
 * Barriers that nothing can show to be missing, by file. In growing the refcount table: the one between new blocks and
 * table, as the one before the header comes after both, and the one before the old table is freed, as the write that
 * needed the cluster brings one. Before DIRTY is cleared, the one after which nothing but the file's end was cut.
 */
const redundant: Record<string, number> = { 'lib/metadata/allocator.ts': 2, 'lib/metadata/image.ts': 1 };
const casesPerSite = 6;

const options: JudgeOptions = {
  exhaustiveUpTo: 4,
  samples: 6,
  tornSamples: 0,
  recoverEvery: 4,
  qemuEvery: Infinity,
};

describe('the crash suite', () => {
  it('notices when a barrier is missing', { timeout: 300_000 }, async () => {
    const casesOf = new Map<string, Case[]>();
    for (const one of await cases()) {
      for (const site of await sitesOf(one)) casesOf.set(site, [...(casesOf.get(site) ?? []), one]);
    }
    const survivors: string[] = [];
    for (const [site, withSite] of casesOf) {
      const problem = await firstProblem(site, withSite);
      if (problem === null) survivors.push(site);
    }
    const killed = casesOf.size - survivors.length;
    console.log(
      `barriers removed: ${casesOf.size}, noticed: ${killed}; not noticed: ${survivors.join('; ') || 'none'}`,
    );
    const unnoticed: Record<string, number> = {};
    for (const site of survivors) {
      const file = /lib\/[^:]+/.exec(site)?.[0] ?? site;
      unnoticed[file] = (unnoticed[file] ?? 0) + 1;
    }
    expect(unnoticed).toEqual(redundant);
  });
});

async function cases(): Promise<Case[]> {
  const all: Case[] = [];
  for (const kind of kinds.filter(({ slow }) => !slow)) {
    const start = await kind.make();
    for (const workload of workloads) all.push({ kind, start, workload });
  }
  for (const kind of [...kinds.slice(0, 1), ...spaciousKinds.slice(0, 1)]) {
    const start = await kind.make();
    for (const workload of compactions.slice(0, 3)) all.push({ kind, start, workload });
  }
  for (const kind of fullKinds) all.push({ kind, start: await kind.make(), workload: fillUp });
  return all;
}

async function sitesOf({ kind, start, workload }: Case): Promise<Set<string>> {
  let probe: BarrierProbe | undefined;
  await runWorkload(kind, start, workload, {
    through: (recording) => (probe = new BarrierProbe(recording)),
  });
  return probe?.sites ?? new Set();
}

async function firstProblem(site: string, withSite: readonly Case[]): Promise<string | null> {
  for (const { kind, start, workload } of spread(withSite, casesPerSite)) {
    const through = (recording: ConstructorParameters<typeof BarrierProbe>[0]): BarrierProbe =>
      new BarrierProbe(recording, site);
    const run = await runWorkload(kind, start, workload, { through });
    const { problem } = await judgeStates(run, options);
    if (problem !== null) return `${kind.name}, ${workload.name}: ${problem}`;
  }
  return null;
}

/** Up to `count` of the items, from all over the list. */
function spread<T>(items: readonly T[], count: number): T[] {
  const step = Math.max(1, items.length / count);
  return items.filter((_, i) => Math.floor(i / step) !== Math.floor((i - 1) / step));
}
