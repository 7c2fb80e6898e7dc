/** The commands that qemu-img does not have, judged by it and by what the images are known to hold. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allSpecs } from '../../lib/cli/registry.js';
import { makeFixtures } from './fixtures.js';
import { mainScript, qcow2, removeDirectories, tool } from './run.js';

let directory: string;
beforeAll(() => {
  directory = makeFixtures();
});
afterAll(() => removeDirectories(directory));

/** What a guest sees, as the real qemu-img converts it. */
function guestBytes(file: string): Buffer {
  tool('qemu-img', ['convert', '-O', 'raw', file, 'guest.raw'], directory);
  return readFileSync(join(directory, 'guest.raw'));
}

it('sha hashes what the guest sees', async () => {
  const bytes = guestBytes('small.qcow2');
  for (const algorithm of ['sha256', 'sha512', 'md5']) {
    const { stdout } = await qcow2(['sha', '-a', algorithm, 'small.qcow2'], directory);
    expect(stdout).toBe(`${createHash(algorithm).update(bytes).digest('hex')}  small.qcow2\n`);
  }
  const { code, stderr } = await qcow2(['sha', '-a', 'sha265', 'small.qcow2'], directory);
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: "PROGRAM: There is no hash 'sha265'\nDid you mean 'sha256'?\n",
  });
});

it('read and write move bytes between a disk and a pipe', () => {
  tool('qemu-img', ['create', '-q', '-f', 'qcow2', 'written.qcow2', '4M'], directory);
  const input = Buffer.alloc(1_500_000, 'abc');
  execFileSync(process.execPath, [mainScript, 'write', 'written.qcow2', '1M'], { cwd: directory, input });
  expect(
    guestBytes('written.qcow2')
      .subarray(2 ** 20, 2 ** 20 + input.length)
      .equals(input),
  ).toBe(true);
  const output = execFileSync(process.execPath, [mainScript, 'read', 'written.qcow2', '1M', '1500000'], {
    cwd: directory,
    maxBuffer: 2 ** 24,
  });
  expect(output.equals(input)).toBe(true);
});

it('discard makes a range zeros, and refuses what is not on the disk', async () => {
  expect(await qcow2(['discard', 'small.qcow2', '1M', '1M'], directory)).toEqual({
    code: 0,
    stdout: '',
    stderr: '',
  });
  const bytes = guestBytes('small.qcow2');
  expect(bytes.subarray(2 ** 20, 2 ** 21).every((byte) => byte === 0)).toBe(true);
  expect(bytes[2 ** 21]).toBe(0xcd);
  tool('qemu-img', ['check', '-q', 'small.qcow2'], directory);
  expect((await qcow2(['discard', 'small.qcow2', '7M', '2M'], directory)).code).toBe(1);
});

it('mapped lists what qemu-img maps', async () => {
  const { stdout } = await qcow2(['mapped', 'data.qcow2'], directory);
  expect(stdout).toBe('131072 917504\n5242880 65536\n10485760 65536\n');
});

it('tree names the files of a chain', async () => {
  const { stdout } = await qcow2(['tree', 'overlay.qcow2'], directory);
  expect(stdout.split('\n').map((line) => line.split(' (')[0])).toEqual([
    'overlay.qcow2',
    '└─ data.qcow2',
    '',
  ]);
});

it('repair mends what check finds', async () => {
  expect((await qcow2(['check', 'leak.qcow2'], directory)).code).toBe(3);
  expect((await qcow2(['repair', 'leak.qcow2'], directory)).code).toBe(0);
  tool('qemu-img', ['check', '-q', 'leak.qcow2'], directory);
});

describe('inspect', () => {
  it.each([
    ['empty.qcow2', null],
    ['orphan.qcow2', 'It names the backing file "missing"'],
    ['external.qcow2', 'Its data is in another file, "external.data"'],
    ['luks.qcow2', 'It is encrypted (luks)'],
    ['corrupt.qcow2', 'It is marked corrupt'],
    ['shared.qcow2', 'Its tables are damaged'],
  ])('%s', async (file, suspicion) => {
    const times = statSync(join(directory, file)).mtimeMs;
    const { code, stdout, stderr } = await qcow2(['inspect', file], directory);
    expect(stderr).toBe('');
    expect(code).toBe(suspicion === null ? 0 : 1);
    expect(stdout).toContain(suspicion ?? 'Nothing suspicious was found');
    expect(statSync(join(directory, file)).mtimeMs).toBe(times);
  });
});

describe('files that are none of ours', () => {
  /** All commands that take a file, with it in the place of `FILE`. */
  const lines = [
    'compact FILE', 'discard FILE 0 64k', 'repair FILE', 'encode FILE out', 'decode FILE out', 'stream-encode FILE',
    'mapped FILE', 'sha FILE', 'dehydrate FILE out', 'read FILE 0 16', 'write FILE 0', 'hash FILE', 'tree FILE',
    'inspect FILE', 'rehydrate FILE out',
  ]; // prettier-ignore
  const isIn = (directory: string, name: string): boolean => existsSync(join(directory, name));
  beforeAll(() => {
    execFileSync('mkfifo', [join(directory, 'pipe')]);
    mkdirSync(join(directory, 'directory'));
  });

  it.each(
    [
      ['missing', 'No such file or directory'],
      ['directory', 'directory'],
      ['pipe', 'FIFO'],
      ['text.raw/x', 'Not a directory'],
    ]
      .flatMap(([file = '', reason = '']) => lines.map((line) => [line.replace('FILE', file), file, reason]))
      // What it reads is a stream, which a pipe may give as well.
      .filter(([line]) => line !== 'rehydrate pipe out'),
  )('%s', async (line = '', file = '', reason = '') => {
    const { code, stdout, stderr } = await qcow2(line.split(' '), directory);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^PROGRAM: .*\n$/);
    expect(stderr).toContain(file);
    expect(stderr.toLowerCase()).toContain(reason.toLowerCase());
    expect(isIn(directory, 'out')).toBe(false);
  });

  it.each([
    ['compact nothing.qcow2', "Could not open 'nothing.qcow2': Image is not in qcow2 format"],
    ['decode nothing.qcow2 out', "Could not open 'nothing.qcow2': Image is not in qcow2 format"],
    ['dehydrate nothing.qcow2 out', 'nothing.qcow2: Image is not in qcow2 format'],
    ['rehydrate nothing.qcow2 out', 'nothing.qcow2: This is no dehydrated image'],
    ['read nothing.qcow2 0 16', "The range ends at 16, but the disk of 'nothing.qcow2' has 0 bytes"],
    ['discard -f raw nothing.qcow2 0 1', "The range ends at 1, but the disk of 'nothing.qcow2' has 0 bytes"],
    ['read small.qcow2 7E 1', 'The range ends at 8070450532247928833'],
    ['read small.qcow2 8E 1', 'Invalid offset specified. Must be between 0 and 9223372036854775807.'],
    ['read small.qcow2 0 x', 'Invalid length specified.'],
    ['discard small.qcow2 7E 7E', 'The range ends at 16140901064495857664'],
    ['write small.qcow2 7E', 'The offset 8070450532247928832 is past the end of the disk of'],
    ['write small.qcow2 -- -1', 'Invalid offset specified.'],
    ['dehydrate small.qcow2 no/out', 'no/out: No such file or directory'],
    ['dehydrate small.qcow2 directory', 'directory: Is a directory'],
    ['dehydrate small.qcow2 small.qcow2', 'small.qcow2: What is to be read would be overwritten'],
    ['rehydrate text.raw text.raw', 'text.raw: What is to be read would be overwritten'],
    ['encode - out', 'Only a qcow2 image can be read from standard input'],
    ['stream-encode -', 'One of source and target must be a file'],
    ['sha -', "Could not open '-'"],
  ])('%s', async (line, told) => {
    const { code, stdout, stderr } = await qcow2(line.split(' '), directory);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toContain(`PROGRAM: ${told}`);
    expect(isIn(directory, 'out')).toBe(false);
  });

  it.each(lines.map((line) => line.split(' ')[0] ?? ''))('%s of nothing', async (command) => {
    const { code, stdout, stderr } = await qcow2([command], directory);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^PROGRAM: Expecting .*\nTry 'PROGRAM --help' for more information\n$/);
  });

  it('an image one byte short is what it is to qemu-img', async () => {
    copyFileSync(join(directory, 'data.qcow2'), join(directory, 'short.qcow2'));
    truncateSync(join(directory, 'short.qcow2'), statSync(join(directory, 'short.qcow2')).size - 1);
    await qcow2(['decode', 'short.qcow2', 'short.raw'], directory);
    tool('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', 'short.qcow2', 'short.raw'], directory);
  });
});

describe('what is made from the option tables', () => {
  it.each(['bash', 'zsh', 'fish'])('completion for %s has every command and option', async (shell) => {
    const { code, stdout } = await qcow2(['completion', shell], directory);
    expect(code).toBe(0);
    for (const { name, options } of await allSpecs()) {
      expect(stdout).toContain(name);
      for (const option of options) expect(stdout).toContain(option.name);
    }
    writeFileSync(join(directory, `completion.${shell}`), stdout);
    if (isThere(shell)) execFileSync(shell, ['-n', `completion.${shell}`], { cwd: directory, stdio: 'pipe' });
    else console.warn(`${shell} is not installed: its syntax check of the completion was left out`);
  });

  it('bash completes commands and options', async () => {
    const { stdout } = await qcow2(['completion', 'bash'], directory);
    const script = `${stdout}\nCOMP_WORDS=(qcow2 snap); COMP_CWORD=1; _qcow2; echo "$COMPREPLY"
COMP_WORDS=(qcow2 convert --target-for); COMP_CWORD=2; _qcow2; echo "\${COMPREPLY[*]}"\n`;
    expect(execFileSync('bash', { input: script, encoding: 'utf8' })).toBe(
      'snapshot\n--target-format --target-format-options\n',
    );
  });

  it('fish completes commands and options', async () => {
    if (!isThere('fish')) {
      console.warn('fish is not installed: the run of its completion was left out');
      return;
    }
    writeFileSync(join(directory, 'qcow2.fish'), (await qcow2(['completion', 'fish'], directory)).stdout);
    const script = 'source qcow2.fish; complete -C "qcow2 snap"; complete -C "qcow2 convert --target-form"';
    const found = execFileSync('fish', ['--no-config', '-c', script], { cwd: directory, encoding: 'utf8' });
    expect(found.split('\n').map((line) => line.split('\t')[0])).toEqual([
      'snapshot',
      '--target-format',
      '--target-format-options',
      '',
    ]);
  });

  it('the manual page has every command, and man finds no fault with it', async () => {
    const { stdout } = await qcow2(['man'], directory);
    expect(stdout).toMatch(/^\.TH QCOW2 1 /);
    for (const { name } of await allSpecs()) {
      expect(stdout).toContain(`.SS qcow2 ${name.replaceAll('-', '\\-')} [options]`);
    }
    if (!isThere('man')) {
      console.warn('man is not installed: the page was not shown');
      return;
    }
    writeFileSync(join(directory, 'qcow2.1'), stdout);
    const shown = spawnSync('man', ['--warnings', '-l', 'qcow2.1'], {
      cwd: directory,
      encoding: 'utf8',
      env: { ...process.env, LC_ALL: 'C.UTF-8', MANWIDTH: '120', MANROFFOPT: '-rHY=0', PAGER: 'cat' },
    });
    expect(shown).toMatchObject({ status: 0, stderr: '' });
    expect(shown.stdout).toContain('qcow2 stream-encode [options]');
  });
});

/** Whether a program can be run here: those that only some people have are not asked of everybody. */
const isThere = (program: string): boolean =>
  spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;

it('asks whether a near name was meant', async () => {
  expect((await qcow2(['convrt'], directory)).stderr).toBe(
    "PROGRAM: Command not found: convrt\nDid you mean 'convert'?\nTry 'PROGRAM --help' for more information\n",
  );
  expect((await qcow2(['info', '--outptu=json', 'x'], directory)).stderr).toContain(
    "Did you mean '--output'?",
  );
});
