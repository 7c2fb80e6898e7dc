/** Chains of images that qemu-img made, filled with random content by qemu-io. */
import { qemuImg, qemuIo } from './oracle.js';
import { Random } from './pattern.js';

/** One file of a chain. */
export interface ChainFile {
  format: 'qcow2' | 'raw';
  /** Bytes. */
  size: number;
  /** For `qemu-img create -o`. */
  options?: string;
}

/** A few random changes as qemu-io commands: data, zeros and discards of whole sectors. */
export function randomChanges(random: Random, size: number, count: number): string[] {
  return Array.from({ length: count }, () => {
    const sectors = size / 512;
    const start = random.below(sectors);
    const length = Math.min(sectors - start, random.between(1, 400));
    const what = random.pick(['write -z', 'write -P 0', 'discard', 'data', 'data', 'data']);
    const command = what === 'data' ? `write -P ${random.between(1, 255)}` : what;
    return `${command} ${start * 512} ${length * 512}`;
  });
}

/**
 * Makes a chain, the base first; each file is named after its place: `<prefix>0` is the base.
 * @returns the paths, the base first
 */
export async function makeChain(
  path: (name: string) => string,
  prefix: string,
  files: readonly ChainFile[],
  seed: number,
): Promise<string[]> {
  const random = new Random(seed);
  const paths: string[] = [];
  for (const [index, { format, size, options }] of files.entries()) {
    const file = path(`${prefix}${index}`);
    const below = paths.at(-1);
    const belowFormat = files[index - 1]?.format ?? 'raw';
    const backing = below === undefined ? [] : ['-b', below, '-F', belowFormat];
    const flags = options === undefined ? [] : ['-o', options];
    await qemuImg(['create', '-f', format, ...flags, ...backing, file, `${size}`]);
    await qemuIo(file, randomChanges(random, size, 8), { format });
    paths.push(file);
  }
  return paths;
}
