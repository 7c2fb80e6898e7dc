/** Holds lists of command lines against the real qemu-img: what is printed, the exit code, and what is then in the files. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Beside } from './beside.js';
import { comparable } from './comparable.js';
import { makeFixtures } from './fixtures.js';
import { qcow2, qemuImg, removeDirectories } from './run.js';

/** The words of a line; those with spaces, and empty ones, stand in single quotes. */
export function wordsOf(line: string): string[] {
  return [...line.matchAll(/(?:'[^']*'|[^\s'])+/g)].map(([word]) => word.replaceAll("'", ''));
}

/** The lines of a list that are not empty. */
export function linesOf(list: string): string[] {
  return list
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

let fixtures: string;
/** Made when the first command that may change files is run. */
let beside: Beside | null = null;

/** Makes the images for the lists of a test file. */
export function prepareFixtures(more: (directory: string) => void = () => undefined): void {
  beforeAll(() => {
    fixtures = makeFixtures();
    more(fixtures);
  });
  afterAll(() => {
    beside?.remove();
    removeDirectories(fixtures);
  });
}

/** Commands that change nothing. */
export function sameOutput(command: string, list: string): void {
  describe(command, () => {
    it.concurrent.each(linesOf(list))(`${command} %s`, async (line) => {
      const args = [command, ...wordsOf(line)];
      expect(comparable(await qcow2(args, fixtures))).toEqual(comparable(await qemuImg(args, fixtures)));
    });
  });
}

/** Commands that may change files: what they print, and what is then in every file. */
export function sameResult(command: string, list: string): void {
  describe(command, () => {
    it.each(linesOf(list))(`${command} %s`, async (line) => {
      beside ??= new Beside(fixtures);
      const { ours, theirs, files } = await beside.run([command, ...wordsOf(line)]);
      expect(ours).toEqual(theirs);
      expect(files).toEqual([]);
    });
  });
}
