/** Damage of every kind planted in images of many kinds: found and repaired as qemu-img finds and repairs it. */
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { open } from '../../lib/index.js';
import type { CheckReport } from '../../lib/index.js';
import { qemuCheck, qemuCompare, qemuImg, qemuIo, type QemuCheck } from '../support/oracle.js';
import { damages, PlantedImage, type Damage } from '../support/planted-damage.js';
import { useTempDir } from '../support/temp-dir.js';

const KiB = 1024;

interface Kind {
  name: string;
  clusterSize: number;
  /** More creation options. */
  options: string;
  size: string;
  snapshot?: boolean;
  compressed?: boolean;
}

const kinds: Kind[] = [
  { name: 'clusters of 64 KiB', clusterSize: 64 * KiB, options: '', size: '64M' },
  { name: 'clusters of 512 bytes', clusterSize: 512, options: '', size: '4M' },
  { name: 'clusters of 2 MiB', clusterSize: 2048 * KiB, options: '', size: '16M' },
  { name: 'refcounts of 1 bit', clusterSize: 4 * KiB, options: ',refcount_bits=1', size: '16M' },
  { name: 'refcounts of 8 bits', clusterSize: 4 * KiB, options: ',refcount_bits=8', size: '16M' },
  { name: 'refcounts of 64 bits', clusterSize: 4 * KiB, options: ',refcount_bits=64', size: '16M' },
  { name: 'version 2', clusterSize: 4 * KiB, options: ',compat=0.10', size: '16M' },
  { name: 'extended L2 entries', clusterSize: 64 * KiB, options: ',extended_l2=on', size: '64M' },
  { name: 'a snapshot', clusterSize: 4 * KiB, options: '', size: '16M', snapshot: true },
  { name: 'compressed clusters', clusterSize: 4 * KiB, options: '', size: '16M', compressed: true },
];

const temp = useTempDir();
const pristine = new Map<string, Buffer>();

/** What is left of an image's damage after one repair. */
interface Repaired {
  path: string;
  ours: CheckReport;
}

describe.each(kinds)('an image with $name', (kind) => {
  it.each(damages)('$name: check says what qemu-img check says', async (damage) => {
    const path = await plantedImage(kind, damage.plant);
    const ours = await check(path);
    const theirs = asReport(await qemuCheck(path));
    if (isBeyondQemu(kind, damage)) expect(ours.corruptions).toBeGreaterThanOrEqual(theirs.corruptions);
    else expect(numbers(ours, damage.unlike)).toEqual(numbers(theirs, damage.unlike));
  });

  it.each(damages)('$name: repaired as well as by qemu-img check -r all', async ({ plant, unlike }) => {
    const { path, ours } = await repaired(kind, plant, 'all');
    const theirs = await plantedImage(kind, plant, 'theirs.qcow2');
    const { exit } = await qemuImg(['check', '-q', '-f', 'qcow2', '-r', 'all', theirs], { expectExit: null });
    const judged = asReport(await qemuCheck(path));
    if (exit === 0) expect(counts(ours)).toEqual({ leaks: 0, corruptions: 0, checkErrors: 0 });
    expect(judged.leaks, 'leaks as QEMU sees them').toBe(ours.leaks);
    expect(judged.corruptions, 'corruptions as QEMU sees them').toBeLessThanOrEqual(ours.corruptions);
    if (exit === 0 && unlike === undefined)
      expect(await qemuCompare(path, theirs)).toMatchObject({ same: true });
  });
});

const leaky = kinds.filter(({ name }) =>
  ['clusters of 64 KiB', 'a snapshot', 'compressed clusters'].includes(name),
);

describe.each(leaky)('an image with $name', (kind) => {
  it.each(damages)('$name: leaks repaired as by qemu-img check -r leaks', async ({ plant }) => {
    const { path, ours } = await repaired(kind, plant, 'leaks');
    const theirs = await plantedImage(kind, plant, 'theirs.qcow2');
    const { exit } = await qemuImg(['check', '-q', '-f', 'qcow2', '-r', 'leaks', theirs], {
      expectExit: null,
    });
    expect(counts(ours)).toEqual(counts(asReport(await qemuCheck(path))));
    // QEMU refuses images whose refcount table it would have to rebuild, and leaves COPIED on compressed clusters.
    if (exit === 1) return;
    const left = asReport(await qemuCheck(theirs));
    expect(ours.leaks).toBe(left.leaks);
    expect(ours.corruptions).toBeLessThanOrEqual(left.corruptions);
  });
});

/** QEMU counts references in counters as wide as the refcounts: with one bit it cannot tell two references from one. */
const isBeyondQemu = ({ options }: Kind, { name }: Damage): boolean =>
  options.includes('refcount_bits=1') && name === 'data in a refcount block';

async function repaired(kind: Kind, plant: Damage['plant'], repair: 'leaks' | 'all'): Promise<Repaired> {
  const path = await plantedImage(kind, plant);
  return { path, ours: await check(path, repair) };
}

async function plantedImage(kind: Kind, plant: Damage['plant'], name = 'image.qcow2'): Promise<string> {
  const path = temp(name);
  const bytes = pristine.get(kind.name) ?? (await makeImage(kind));
  pristine.set(kind.name, bytes);
  await writeFile(path, bytes);
  const image = await PlantedImage.open(path);
  plant(image);
  await image.save();
  return path;
}

async function makeImage({ options, clusterSize, size, snapshot, compressed }: Kind): Promise<Buffer> {
  const path = temp('pristine.qcow2');
  await qemuImg(['create', '-q', '-f', 'qcow2', '-o', `cluster_size=${clusterSize}${options}`, path, size]);
  const writes = Array.from({ length: 6 }, (_, i) => {
    const command = compressed === true && i !== 2 ? 'write -c' : 'write';
    return `${command} -P ${i + 1} ${i * clusterSize} ${clusterSize}`;
  });
  await qemuIo(path, writes);
  if (snapshot === true) {
    await qemuImg(['snapshot', '-c', 'one', path]);
    await qemuIo(path, [`write -P 77 ${4 * clusterSize} ${clusterSize}`]);
  }
  return readFile(path);
}

async function check(path: string, repair?: 'leaks' | 'all'): Promise<CheckReport> {
  const disk = await open(path, { forRepair: true, mode: repair === undefined ? 'r' : 'r+' });
  try {
    return await disk.check(repair === undefined ? {} : { repair });
  } finally {
    await disk.close();
  }
}

type Numbers = Omit<CheckReport, 'findings'>;

const counts = ({ leaks, corruptions, checkErrors }: Numbers) => ({ leaks, corruptions, checkErrors });

function numbers(report: Numbers, unlike?: Damage['unlike']): Partial<Numbers> {
  const { leaks, corruptions, checkErrors, leaksFixed, corruptionsFixed, imageEndOffset } = report;
  const { totalClusters, allocatedClusters, compressedClusters, fragmentedClusters } = report;
  return {
    leaks,
    corruptions,
    checkErrors,
    leaksFixed,
    corruptionsFixed,
    imageEndOffset,
    totalClusters,
    ...(unlike === 'statistics' ? {} : { allocatedClusters, compressedClusters, fragmentedClusters }),
  };
}

function asReport(report: QemuCheck): Numbers {
  return {
    leaks: report.leaks ?? 0,
    corruptions: report.corruptions ?? 0,
    checkErrors: report['check-errors'],
    leaksFixed: report['leaks-fixed'] ?? 0,
    corruptionsFixed: report['corruptions-fixed'] ?? 0,
    imageEndOffset: report['image-end-offset'] ?? 0,
    totalClusters: report['total-clusters'] ?? 0,
    allocatedClusters: report['allocated-clusters'] ?? 0,
    compressedClusters: report['compressed-clusters'] ?? 0,
    fragmentedClusters: report['fragmented-clusters'] ?? 0,
  };
}
