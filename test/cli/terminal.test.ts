/** What a person at a terminal sees more than a script does: colour, and a bar while work goes on. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Sink } from '../../lib/cli/output.js';
import { ProgressBar } from '../../lib/cli/progress-bar.js';
import { runProgram } from '../../lib/cli/program.js';
import { Terminal } from '../../lib/cli/terminal.js';
import { create } from '../../lib/index.js';
import { withTempDir } from '../support/temp-dir.js';

class Screen implements Sink {
  text = '';
  readonly isTerminal: boolean;

  constructor(isTerminal = true) {
    this.isTerminal = isTerminal;
  }

  write(bytes: Uint8Array): void {
    this.text += Buffer.from(bytes).toString();
  }
}

const escape = '\u001b[';

describe('the bar', () => {
  it('shows how far work has come and how long it takes, then goes away', () => {
    const screen = new Screen();
    let now = 0;
    const bar = new ProgressBar(new Terminal(screen), () => now);
    bar.update({ done: 1, total: 100 });
    expect(screen.text).toBe('');
    now = 10_000;
    bar.update({ done: 25, total: 100 });
    expect(screen.text).toBe(`\r 25 % [${'#'.repeat(7)}${'.'.repeat(23)}], 30 s left${escape}K`);
    screen.text = '';
    now = 10_050;
    bar.update({ done: 26, total: 100 });
    expect(screen.text).toBe('');
    now = 4_000_000;
    bar.update({ done: 50, total: 100 });
    expect(screen.text).toContain('], 1 h 6 min left');
    screen.text = '';
    bar.end();
    expect(screen.text).toBe(`\r${escape}K`);
  });

  it('leaves no trace of work that is over at once', () => {
    const screen = new Screen();
    const bar = new ProgressBar(new Terminal(screen), () => 0);
    bar.update({ done: 1, total: 1 });
    bar.end();
    expect(screen.text).toBe('');
  });
});

describe('a command that takes long', () => {
  afterEach(() => vi.restoreAllMocks());

  it.each([
    'measure -O qcow2 DISK',
    'dd if=DISK of=OUT',
    'discard DISK 0 1M',
    'compare DISK DISK',
    'check DISK',
  ])('shows a bar: %s', async (line) => {
    await withTempDir(async (path) => {
      const disk = await create(path('disk'), 2 ** 20);
      await disk.write(Buffer.alloc(2 ** 18, 1), 0);
      await disk.close();
      // Each look at the clock is half a second after the one before.
      let now = 0;
      vi.spyOn(performance, 'now').mockImplementation(() => (now += 500));
      const [stdout, stderr] = [new Screen(false), new Screen()];
      const words = line
        .split(' ')
        .map((word) => word.replace('DISK', path('disk')).replace('OUT', path('out')));
      expect(await runProgram(words, { program: 'qcow2', stdout, stderr })).toBe(0);
      expect(stderr.text).toMatch(/\d % \[[#.]{30}\]/);
      expect(stdout.text).not.toContain('%]');
    });
  });
});

describe('colour', () => {
  const { NO_COLOR: noColour, TERM: kind } = process.env;
  beforeEach(() => {
    delete process.env.NO_COLOR;
    process.env.TERM = 'xterm';
  });
  afterEach(() => {
    if (noColour !== undefined) process.env.NO_COLOR = noColour;
    if (kind === undefined) delete process.env.TERM;
    else process.env.TERM = kind;
  });
  const run = async (program: string, isTerminal: boolean): Promise<string> => {
    const [stdout, stderr] = [new Screen(isTerminal), new Screen(isTerminal)];
    await runProgram(['info', '--help'], { program, stdout, stderr });
    await runProgram(['info', 'missing'], { program, stdout, stderr });
    return stdout.text + stderr.text;
  };

  it('is on a terminal', async () => {
    expect(await run('qcow2', true)).toContain(`${escape}1mOptions:${escape}0m`);
    expect(await run('qcow2', true)).toContain(`${escape}1;31mqcow2:${escape}0m Could not open 'missing'`);
  });

  it('is nowhere else, nor where it is not wanted, nor under the name of qemu-img', async () => {
    expect(await run('qcow2', false)).not.toContain(escape);
    expect(await run('qemu-img', true)).not.toContain(escape);
    process.env.NO_COLOR = '1';
    expect(await run('qcow2', true)).not.toContain(escape);
    delete process.env.NO_COLOR;
    process.env.TERM = 'dumb';
    expect(await run('qcow2', true)).not.toContain(escape);
  });
});
