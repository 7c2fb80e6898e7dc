/** What an image or a caller calls things does nothing to a log or a terminal: standard error holds it as plain text, wherever it goes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Sink } from '../../lib/cli/output.js';
import { runProgram } from '../../lib/cli/program.js';
import { create, open } from '../../lib/index.js';
import { makeDirectory, qcow2, qemuImg, removeDirectories, tool } from './run.js';

const evil = 'a\nqcow2: forged\r\u001b[2J\u007f\u009b\u2028\u202eb';
const shown = 'a\\x0aqcow2: forged\\x0d\\x1b[2J\\x7f\\x9b\\u2028\\u202eb';
// The program's name is taken out of what it prints wherever a line begins with it.
const escaped = (text: string): string => text.replaceAll(evil.replace('qcow2:', 'PROGRAM:'), shown);

const directory = makeDirectory();
const at = (name: string): string => join(directory, name);
afterAll(() => removeDirectories(directory));

beforeAll(async () => {
  for (const [name, given] of [
    ['orphan', evil],
    ['absent', `./${evil}`],
  ] as const)
    tool('qemu-img', ['create', '-q', '-f', 'qcow2', '-u', '-b', given, '-F', 'raw', name, '1M'], directory);
  const disk = await create(at('named'), 2 ** 20);
  await disk.snapshots.create({ name: evil });
  await disk.bitmaps.create({ name: evil });
  await disk.close();
  const bytes = readFileSync(at('named'));
  // The name as it is in the file, with its bitmap in use.
  bytes.writeUInt32BE(1, bitmapDirectory(bytes) + 12);
  writeFileSync(at('broken'), bytes);
  // A NUL in the names of the bitmap and the snapshot, and damage for a finding.
  const name = Buffer.from(evil);
  for (let found = bytes.indexOf(name); found >= 0; found = bytes.indexOf(name, found + 1)) bytes[found] = 0;
  bytes.writeBigUInt64BE(2n ** 40n, bitmapDirectory(bytes));
  writeFileSync(at('nul'), bytes);
  writeFileSync(at('unknown'), unknownFeature(readFileSync(at('named'))));
});

describe('names in messages are told as qemu-img tells them, but as plain text', () => {
  it.each([
    ['info', '--backing-chain', 'absent'],
    ['convert', '-O', 'raw', 'absent', 'out'],
    ['convert', '-O', 'raw', `./${evil}`, 'out'],
    ['snapshot', '-a', `${evil}!`, 'named'],
    ['snapshot', '-d', `${evil}!`, 'named'],
    ['bitmap', '--remove', 'named', `${evil}!`],
    ['bitmap', '--add', 'named', evil],
    ['convert', '-O', 'qcow2', '--bitmaps', 'broken', 'out'],
    ['info', `./${evil}`],
    ['info', '-f', evil, 'named'],
    ['info', `--${evil}`, 'named'],
    ['resize', 'named', evil],
    ['create', '-f', 'qcow2', '-o', `cluster_size=${evil}`, 'out', '1M'],
    [evil],
  ])('%j', async (...args) => {
    const [ours, theirs] = [await qcow2(args, directory), await qemuImg(args, directory)];
    expect(ours.code).toBe(theirs.code);
    expect(ours.code).not.toBe(0);
    expect(ours.stderr).toMatch(/^(?:[\x20-\x7e]+\n)+$/);
    expect(ours.stderr).not.toMatch(/^(qcow2|PROGRAM): forged/m);
    expect(ours.stderr.split('\n')[0]).toBe(escaped(theirs.stderr).split('\n')[0]);
  });
});

describe('nothing but text reaches standard error', () => {
  const lines: readonly (readonly string[])[] = [
    ['info', '--backing-chain', 'orphan'],
    ['map', 'orphan'],
    ['info', 'unknown'],
    ['info', evil],
    ['bitmap', '--enable', 'broken', evil],
    ['convert', '-O', 'raw', '-l', `snapshot.${evil}`, 'named', 'out'],
    ['check', 'nul'],
    ['check', '-r', 'all', 'nul'],
    ['snapshot', '-a', 'none', 'nul'],
    ['convert', '-O', 'qcow2', '--bitmaps', 'nul', 'out'],
    ['convert', '-O', 'qcow2', '--bitmaps', '--skip-broken-bitmaps', 'broken', 'out'],
    ['resize', `./${evil}.raw`, '1M'],
    ['read', 'named', evil],
  ];
  it.each([false, true])('on a terminal: %j', async (isTerminal) => {
    writeFileSync(at(`${evil}.raw`), Buffer.alloc(512));
    const home = process.cwd();
    process.chdir(directory);
    try {
      for (const args of lines) {
        const stderr = new Collected(isTerminal);
        await runProgram(args, { program: 'qemu-img', stdout: new Collected(false), stderr });
        expect(stderr.text, args.join(' ')).toMatch(/^(?:[\x20-\x7e]+\n)+$/);
        expect(stderr.text, args.join(' ')).not.toMatch(/^qcow2: forged/m);
      }
    } finally {
      process.chdir(home);
    }
  });
});

it('standard output keeps names for programs, and shows them as text on a terminal', async () => {
  const { stdout } = await qcow2(['snapshot', '-l', 'named'], directory);
  expect(stdout).toBe((await qemuImg(['snapshot', '-l', 'named'], directory)).stdout);
  expect(stdout).toContain(evil);
  const json = await qcow2(['info', '--output=json', 'named'], directory);
  expect(JSON.parse(json.stdout)).toMatchObject({ snapshots: [{ name: evil }] });
  const screen = new Collected(true);
  await runProgram(['snapshot', '-l', at('named')], {
    program: 'qemu-img',
    stdout: screen,
    stderr: new Collected(true),
  });
  expect(screen.text).toMatch(/^(?:[\x20-\x7e]+\n)+$/);
  expect(screen.text).toContain(shown);
});

it('messages of the library show the name of a file as text', async () => {
  const wrong: unknown = await open(at(`${evil}.raw`)).catch((reason: unknown) => reason);
  const missing: unknown = await open(at(evil)).catch((reason: unknown) => reason);
  const notThere: unknown = await open(at('absent'), { resolve: 'any' }).catch((reason: unknown) => reason);
  const followed: unknown = await open(at('absent'), {
    resolve: ({ name }) => Promise.resolve(at(name)),
  }).catch((reason: unknown) => reason);
  for (const error of [wrong, missing, notThere, followed]) {
    expect(error).toBeInstanceOf(Error);
    const { message, stack, cause } = error as Error;
    expect(message).toMatch(/^[\x20-\x7e]+$/);
    expect(stack).not.toMatch(/^qcow2: forged/m);
    if (cause instanceof Error)
      expect(`${cause.message}${String(cause.stack)}`).not.toMatch(/^qcow2: forged/m);
  }
  // Programs get the path as it is.
  expect(missing).toMatchObject({ code: 'ENOENT', path: at(evil) });
});

class Collected implements Sink {
  text = '';
  readonly isTerminal: boolean;

  constructor(isTerminal: boolean) {
    this.isTerminal = isTerminal;
  }

  write(bytes: Uint8Array): void {
    this.text += Buffer.from(bytes).toString();
  }
}

function headerExtension(image: Buffer, type: number): number {
  let found = image.readUInt32BE(100);
  while (image.readUInt32BE(found) !== type) found += 8 + Math.ceil(image.readUInt32BE(found + 4) / 8) * 8;
  return found;
}

const bitmapDirectory = (image: Buffer): number =>
  Number(image.readBigUInt64BE(headerExtension(image, 0x23852875) + 24));

/** An incompatible bit that nobody knows, with an evil name in place of the first in the feature name table. */
function unknownFeature(image: Buffer): Buffer {
  image.writeBigUInt64BE(1n << 40n, 72);
  const entry = headerExtension(image, 0x6803f857) + 8;
  image.set([0, 40], entry);
  image.fill(0, entry + 2, entry + 48);
  image.write(evil, entry + 2);
  return image;
}
