/**
 * Random damage to the metadata of images that qemu-img made: a check never throws, and no repair loses data that was
 * readable before. QCOW2_DAMAGE_RUNS sets the number of images of each kind, QCOW2_DAMAGE_SEED where to begin.
 */
import { expect, it } from 'vitest';
import { MemoryStorage, open, Qcow2Error } from '../../lib/index.js';
import type { CheckReport, Qcow2 } from '../../lib/index.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { Random } from '../support/pattern.js';
import { copied, PlantedImage } from '../support/planted-damage.js';
import { useTempDir } from '../support/temp-dir.js';

const runs = Number(process.env.QCOW2_DAMAGE_RUNS ?? 40);
const firstSeed = Number(process.env.QCOW2_DAMAGE_SEED ?? 1);
const temp = useTempDir();

/** A place of metadata and its bytes of interest. */
type Place = readonly [offset: number, length: number];

it.each(['cluster_size=512', 'cluster_size=4k,refcount_bits=8', 'cluster_size=16k,extended_l2=on'])(
  'damage to an image with %s loses nothing that a repair could save',
  async (options) => {
    const image = await makeImage(options);
    let opened = 0;
    for (let seed = firstSeed; seed < firstSeed + runs; seed += 1) {
      const { bytes, description } = damage(image, new Random(seed));
      if (await holds(bytes, image.clusterSize, `seed ${seed}: ${description}`)) opened += 1;
    }
    expect(opened).toBeGreaterThan(runs / 2);
  },
  600_000,
);

/** Plain, compressed and zero clusters, a snapshot, and data written after it. */
async function makeImage(options: string): Promise<PlantedImage> {
  const path = temp('image.qcow2');
  await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, path, '1M']);
  await qemuIo(path, ['write -P 1 0 100k', 'write -c -P 2 128k 64k', 'write -P 3 300k 60k']);
  await qemuImg(['snapshot', '-c', 'one', path]);
  await qemuIo(path, ['write -P 4 20k 50k', 'write -z 310k 16k', 'write -P 9 900k 33k']);
  return PlantedImage.open(path);
}

/** One to three entries or bytes of the tables replaced: by chance, by one another, or by references to other clusters. */
function damage(image: PlantedImage, random: Random): { bytes: Buffer; description: string } {
  const { clusterSize } = image;
  const bytes = Buffer.from(image.bytes);
  const snapshotTable = Number(bytes.readBigUInt64BE(64));
  const places: [Place, ...Place[]] = [
    [image.l1, 64],
    [image.l2(), clusterSize],
    [image.refcountBlock(), Math.min(clusterSize, 256)],
    [image.refcountTable, 16],
    [snapshotTable, 40],
    [Number(bytes.readBigUInt64BE(snapshotTable)), 64],
  ];
  const done: string[] = [];
  for (let count = random.between(1, 3); count > 0; count -= 1) {
    const [offset, length] = random.pick(places);
    const byte = offset + random.below(length);
    const entry = byte - (byte % 8);
    const kind = random.pick(['bit', 'byte', 'entry', 'reference'] as const);
    if (kind === 'bit') bytes[byte] = (bytes[byte] ?? 0) ^ (1 << random.below(8));
    else if (kind === 'byte') bytes[byte] = random.below(256);
    else if (kind === 'entry') {
      const source = offset + 8 * random.below(length / 8);
      bytes.copy(bytes, entry, source, source + 8);
    } else {
      const cluster = random.below(Math.ceil(bytes.length / clusterSize) + 2);
      bytes.writeBigUInt64BE(BigInt(cluster * clusterSize) | (random.chance(0.7) ? copied : 0n), entry);
    }
    done.push(`${kind} at ${byte}`);
  }
  return { bytes, description: done.join(', ') };
}

/** Checks, repairs and reads a damaged image; false when it is one that nobody can open. */
async function holds(bytes: Buffer, clusterSize: number, what: string): Promise<boolean> {
  const storage = new MemoryStorage(bytes);
  let damaged: Qcow2;
  try {
    damaged = await open(storage, { forRepair: true });
  } catch (error) {
    if (error instanceof Qcow2Error) return false;
    throw error;
  }
  const before = await readable(damaged, clusterSize);
  await damaged.check();
  await damaged.close();
  const repairing = await open(storage, { mode: 'r+', forRepair: true });
  const repaired = await repairing.check({ repair: 'all' });
  await repairing.close();
  const disk = await open(storage, { forRepair: true });
  expect(left(await disk.check()), what).toEqual(left(repaired));
  const after = await readable(disk, clusterSize);
  await disk.close();
  before.forEach((cluster, index) => {
    if (cluster === null) return;
    expect(after[index]?.equals(cluster), `${what}: guest cluster ${index}`).toBe(true);
  });
  return true;
}

const left = ({ leaks, corruptions, checkErrors }: CheckReport) => ({ leaks, corruptions, checkErrors });

/** Every guest cluster, null for one that cannot be read. */
async function readable(disk: Qcow2, clusterSize: number): Promise<(Buffer | null)[]> {
  const clusters: (Buffer | null)[] = [];
  for (let at = 0; at < disk.size; at += clusterSize) {
    const cluster = Buffer.alloc(clusterSize);
    try {
      await disk.read(cluster, at);
      clusters.push(cluster);
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      clusters.push(null);
    }
  }
  return clusters;
}
