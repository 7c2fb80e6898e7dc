/** Holds lists of command lines against the real qemu-img: what is printed, the exit code, and what is then in the files. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeFixtures } from './fixtures.js';
import { copyDirectory, qcow2, qemuImg, removeDirectories } from './run.js';
import type { Outcome } from './run.js';

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

/** Makes the images for the lists of a test file. */
export function prepareFixtures(more: (directory: string) => void = () => undefined): void {
  beforeAll(() => {
    fixtures = makeFixtures();
    more(fixtures);
  });
  afterAll(() => removeDirectories(fixtures));
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

/** Commands that may change the files they name. */
export function sameResult(command: string, list: string): void {
  describe(command, () => {
    it.concurrent.each(linesOf(list))(`${command} %s`, async (line) => {
      const args = [command, ...wordsOf(line)];
      const theirs = copyDirectory(fixtures);
      const ours = copyDirectory(fixtures);
      try {
        const expected = comparable(await qemuImg(args, theirs));
        expect(comparable(await qcow2(args, ours))).toEqual(expected);
        for (const file of filesNamed(args)) await expectSameFile(ours, theirs, file, expected.code === 0);
      } finally {
        removeDirectories(theirs, ours);
      }
    });
  });
}

/** Without what differs from run to run: progress, times, the names that QEMU gives its nodes. */
export function comparable({ code, stdout, stderr }: Outcome): Outcome {
  return {
    code,
    stdout: stdout
      .replaceAll(/( {4}\([\d.]+\/100%\)\r)+/g, '    (PROGRESS)\r')
      .replaceAll(/\d+\.\d{3} seconds/g, 'TIME seconds'),
    stderr: stderr.replaceAll(/'(qemu-img|qcow2) rebase'/g, "'PROGRAM rebase'"),
  };
}

function filesNamed(args: readonly string[]): string[] {
  const names = args.map((arg) => /(?:^of=|filename=)([^,]+)/.exec(arg)?.[1] ?? arg);
  return [...new Set(names.filter((name) => /^[\w./-]+$/.test(name)))];
}

async function expectSameFile(ours: string, theirs: string, file: string, isChanged: boolean): Promise<void> {
  const here = join(ours, file);
  const there = join(theirs, file);
  expect(existsSync(here)).toBe(existsSync(there));
  if (!isChanged || !existsSync(here) || !statSync(here).isFile()) return;
  const [info, expected, compared] = await Promise.all([
    examine(ours, file),
    examine(theirs, file),
    qemuImg(['compare', '-U', here, there], ours),
  ]);
  expect(info).toEqual(expected);
  // Encrypted disks, and files that are named from the working directory, cannot be opened here.
  expect(compared.stderr === '' ? compared.stdout : 'Images are identical.\n').toBe(
    'Images are identical.\n',
  );
  if (info.format !== 'qcow2' || info.encrypted === true) return;
  const { code } = await qemuImg(['check', '-U', '-q', file], ours);
  // What was damaged before may be so still.
  if (code !== 0) expect((await qemuImg(['check', '-U', '-q', file], theirs)).code).toBe(code);
}

export interface Info {
  format: string;
  encrypted?: boolean;
}

/** What the real qemu-img says of a file, without what depends on the medium, the time or chance. */
export async function examine(directory: string, file: string): Promise<Info> {
  const volatile = ['actual-size', 'date-sec', 'date-nsec', 'uuid', 'iters', 'master-key-iters', 'icount'];
  const { stdout } = await qemuImg(['info', '-U', '--output=json', file], directory);
  return JSON.parse(stdout, (name, value: unknown) => (volatile.includes(name) ? undefined : value)) as Info;
}
