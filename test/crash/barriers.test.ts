/** The check of the crash suite: every barrier of the library is taken out in turn, and the suite must notice. */
import { describe, expect, it } from 'vitest';
import { BarrierProbe } from './barrier-probe.js';
import { judgeStates, runWorkload, type JudgeOptions } from './crash-run.js';
import { fullKinds, kinds, spaciousKinds, type Kind, type Start } from './kinds.js';
import { compactions, fillUp, workloads, type Workload } from './workloads.js';

interface Case {
  readonly kind: Kind;
  readonly start: Start;
  readonly workload: Workload;
}

/**
 * Barriers that these cases cannot show to be missing, by file. The one of the allocator comes after the header names the
 * new refcount table: the commit that frees the old one has a barrier of its own before, but a table that moved is to be
 * durable, or known not to be, before anything relies on it.
 */
const unseen: Record<string, number> = { 'lib/metadata/allocator.ts': 1 };
const isLong = process.env.QCOW2_CRASH === 'long';
const casesPerSite = isLong ? 12 : 5;
/** Those of a short run. */
const chosenKinds = ['512 B clusters', 'over a qcow2 backing file', 'lazy refcounts', 'external data file'];

const options: JudgeOptions = {
  exhaustiveUpTo: 4,
  samples: 8,
  tornSamples: 4,
  recoverEvery: 4,
  qemuEvery: Infinity,
};

describe('the crash suite', () => {
  it('notices when a barrier is missing', { timeout: isLong ? 3_600_000 : 300_000 }, async () => {
    const casesOf = new Map<string, { one: Case; changes: number }[]>();
    for (const one of await cases()) {
      const { sites, changes } = await sitesOf(one);
      for (const site of sites) casesOf.set(site, [...(casesOf.get(site) ?? []), { one, changes }]);
    }
    const survivors: string[] = [];
    for (const [site, withSite] of casesOf) {
      // Short ones first: most are enough.
      const list = withSite.sort((a, b) => a.changes - b.changes).map(({ one }) => one);
      const problem = await firstProblem(site, spread(list, casesPerSite));
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
    expect(unnoticed).toEqual(unseen);
  });
});

async function cases(): Promise<Case[]> {
  const all: Case[] = [];
  for (const kind of kinds.filter(({ name, slow }) => (isLong ? !slow : chosenKinds.includes(name)))) {
    const start = await kind.make();
    for (const workload of [...workloads, ...compactions]) {
      if (workload.fits?.(kind) ?? true) all.push({ kind, start, workload });
    }
  }
  for (const kind of kinds.filter(({ version }) => !isLong && version === 2)) {
    const start = await kind.make();
    for (const workload of workloads.filter(({ name }) => name === 'amend'))
      all.push({ kind, start, workload });
  }
  for (const kind of spaciousKinds.slice(0, isLong ? Infinity : 1)) {
    const start = await kind.make();
    for (const workload of compactions) {
      if (workload.fits?.(kind) ?? true) all.push({ kind, start, workload });
    }
  }
  for (const kind of fullKinds) all.push({ kind, start: await kind.make(), workload: fillUp });
  return all;
}

async function sitesOf({ kind, start, workload }: Case): Promise<{ sites: Set<string>; changes: number }> {
  let probe: BarrierProbe | undefined;
  const { recording } = await runWorkload(kind, start, workload, {
    through: (inner) => (probe = new BarrierProbe(inner)),
  });
  return { sites: probe?.sites ?? new Set(), changes: recording.changes };
}

async function firstProblem(site: string, withSite: readonly Case[]): Promise<string | null> {
  for (const { kind, start, workload } of withSite) {
    let around: readonly number[] = [];
    const run = await runWorkload(kind, start, workload, {
      through: (recording) => {
        const probe = new BarrierProbe(recording, site);
        around = probe.removals;
        return probe;
      },
    });
    // Elsewhere everything is as with the barrier.
    const { problem } = await judgeStates(run, { ...options, around });
    if (problem !== null) return `${kind.name}, ${workload.name}: ${problem}`;
  }
  return null;
}

/** Up to `count` of the items, from all over the list. */
function spread<T>(items: readonly T[], count: number): T[] {
  const step = Math.max(1, items.length / count);
  return items.filter((_, i) => Math.floor(i / step) !== Math.floor((i - 1) / step));
}
