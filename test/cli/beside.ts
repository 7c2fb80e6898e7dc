/** Two equal directories, one for the real qemu-img and one for this package's, and what a command line does in each. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { copyDirectory, qcow2, qemuImg, removeDirectories } from './run.js';
import type { Outcome } from './run.js';
import { comparable, examine } from './comparable.js';

/** How the two differ: nothing when they do not. */
export type Differences = readonly string[];

/** What the two programs did with one command line. */
export interface Comparison {
  theirs: Outcome;
  ours: Outcome;
  /** What differs in the files they leave, told in words. */
  files: Differences;
}

export class Beside {
  readonly #fixtures: string;
  readonly #ours: string;
  readonly #theirs: string;
  readonly #before: { ours: Stamps; theirs: Stamps };

  constructor(fixtures: string) {
    this.#fixtures = fixtures;
    this.#ours = copyDirectory(fixtures);
    this.#theirs = copyDirectory(fixtures);
    this.#before = { ours: stampsOf(this.#ours), theirs: stampsOf(this.#theirs) };
  }

  remove(): void {
    removeDirectories(this.#ours, this.#theirs);
  }

  /** Runs a command line in both, compares, and puts both back as they were. */
  async run(args: readonly string[]): Promise<Comparison> {
    const [theirs, ours] = await Promise.all([qemuImg(args, this.#theirs), qcow2(args, this.#ours)]);
    const changed = {
      ours: changedSince(this.#before.ours, this.#ours),
      theirs: changedSince(this.#before.theirs, this.#theirs),
    };
    const files =
      theirs.code === 0 && ours.code === 0
        ? await this.#compareFiles(new Set([...changed.ours, ...changed.theirs]))
        : changed.ours
            .filter((file) => !changed.theirs.includes(file))
            .map((file) => `${file} was changed by a command that failed`);
    this.#putBack('ours', this.#ours, changed.ours);
    this.#putBack('theirs', this.#theirs, changed.theirs);
    return { theirs: comparable(theirs), ours: comparable(ours), files };
  }

  async #compareFiles(files: ReadonlySet<string>): Promise<string[]> {
    const found: string[] = [];
    for (const file of files) {
      const difference = await this.#difference(file);
      if (difference !== null) found.push(`${file}: ${difference}`);
    }
    return found;
  }

  async #difference(file: string): Promise<string | null> {
    const [here, there] = [join(this.#ours, file), join(this.#theirs, file)];
    const exists = [here, there].map((path) => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false);
    if (exists[0] !== exists[1]) return `is there ${exists[0] === true ? 'in ours' : 'in theirs'} alone`;
    if (exists[0] === false || sameBytes(here, there)) return null;
    const [info, expected] = [await examine(this.#ours, file), await examine(this.#theirs, file)];
    if (JSON.stringify(info) !== JSON.stringify(expected))
      return `info says ${JSON.stringify(info)}, not ${JSON.stringify(expected)}`;
    const compared = await qemuImg(['compare', '-U', here, there], this.#ours);
    if (compared.code === 1) return compared.stdout;
    if (info.format !== 'qcow2') return null;
    const found = await check(this.#ours, file);
    const wanted = await check(this.#theirs, file);
    return found === wanted ? null : `check ends with ${String(found)}, not ${String(wanted)}`;
  }

  #putBack(whose: 'ours' | 'theirs', directory: string, files: readonly string[]): void {
    for (const file of files) {
      rmSync(join(directory, file), { force: true, recursive: true });
      if (statSync(join(this.#fixtures, file), { throwIfNoEntry: false }) === undefined) continue;
      mkdirSync(dirname(join(directory, file)), { recursive: true });
      copyFileSync(join(this.#fixtures, file), join(directory, file));
    }
    if (files.length > 0) this.#before[whose] = stampsOf(directory);
  }
}

/** Whether two small files are equal; large ones are left to qemu-img, which knows where their holes are. */
function sameBytes(a: string, b: string): boolean {
  const sizes = [statSync(a).size, statSync(b).size];
  return sizes[0] === sizes[1] && Math.max(...sizes) < 2 ** 22 && readFileSync(a).equals(readFileSync(b));
}

async function check(directory: string, file: string): Promise<number | null> {
  return (await qemuImg(['check', '-U', '-q', file], directory)).code;
}

/** What changes with a file's content. */
type Stamps = ReadonlyMap<string, string>;

function stampsOf(directory: string): Stamps {
  const stamps = new Map<string, string>();
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const { size, mtimeNs, ino } = statSync(path, { bigint: true });
    stamps.set(path.slice(directory.length + 1), `${size} ${mtimeNs} ${ino}`);
  }
  return stamps;
}

function changedSince(before: Stamps, directory: string): string[] {
  const after = stampsOf(directory);
  const names = new Set([...before.keys(), ...after.keys()]);
  return [...names].filter((name) => before.get(name) !== after.get(name));
}
