/** What a process does to the files it writes to, as strace sees it: for what goes past every Storage. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import type { MemoryStorage } from '../../lib/index.js';
import type { Change, Recorded, RecordedLog } from './recording-storage.js';

const names = 'pwrite64,pwritev,pwritev2,fallocate,ftruncate,copy_file_range,fsync,fdatasync';

/** A system call that changes a file or flushes it. */
export interface TracedCall {
  readonly name: string;
  /** Which thread made it: a number. */
  readonly thread: string;
  /** As strace prints it, all strings whole and in hexadecimal. */
  readonly text: string;
}

export interface TraceOptions {
  readonly cwd: string;
  /** Where strace may write. */
  readonly trace: string;
  /** The calls up to the one at which the process is to be killed, unless other threads make some of them this time. */
  readonly until?: readonly TracedCall[];
}

/** Runs Node.js with these arguments; gives the calls it made, and the signal that ended it. */
export async function traceNode(
  args: readonly string[],
  { cwd, trace, until = [] }: TraceOptions,
): Promise<{ calls: TracedCall[]; signal: string | null }> {
  const last = until.at(-1);
  // strace counts the calls of each name for itself, and those of each thread.
  const nth = until.filter(({ name, thread }) => name === last?.name && thread === last.thread).length;
  const kill = last === undefined ? [] : ['-e', `inject=${last.name}:signal=SIGKILL:when=${nth}`];
  const tracing = ['-f', '-y', '-xx', '-s', String(2 ** 24), '-o', trace, '-e', `trace=${names}`, ...kill];
  const child = spawn('strace', [...tracing, process.execPath, ...args], {
    cwd,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
  });
  const [, signal] = (await once(child, 'close')) as [number | null, string | null];
  return { calls: callsOf(await readFile(trace, 'utf8')), signal };
}

/** The calls that a trace shows, in the order in which they ended. One that another thread's came between has two lines. */
function callsOf(trace: string): TracedCall[] {
  const begun = new Map<string, string>();
  const calls: TracedCall[] = [];
  for (const line of trace.split('\n')) {
    const [, thread = '', rest = ''] = /^(\d+) +(.*)/.exec(line) ?? [];
    const [, start] = /^(.*) <unfinished \.\.\.>$/.exec(rest) ?? [];
    if (start !== undefined) {
      begun.set(thread, start);
      continue;
    }
    const [, end] = /^<\.\.\. \w+ resumed>(.*)/.exec(rest) ?? [];
    const whole = end === undefined ? rest : `${begun.get(thread) ?? ''}${end}`;
    const [, name, text] = /^(\w+)\((.*)/.exec(whole) ?? [];
    if (name !== undefined && text !== undefined) calls.push({ name, thread, text });
  }
  return calls;
}

/** Runs `run` until the process is killed at the last of these calls, or at one before it where threads have shared them otherwise. */
export async function killedAt(
  calls: readonly TracedCall[],
  run: (until: readonly TracedCall[]) => ReturnType<typeof traceNode>,
): Promise<string | null> {
  for (let count = calls.length; count > 0; count -= 1) {
    const { signal } = await run(calls.slice(0, count));
    if (signal !== null) return signal;
  }
  return null;
}

/** The log of calls that were made one after the other, from the content that files had before, by their names. */
export function logOf(files: ReadonlyMap<string, MemoryStorage>, calls: readonly TracedCall[]): RecordedLog {
  const names = [...files.keys()];
  const initials = [...files.values()];
  const [initial] = initials;
  if (initial === undefined) throw new Error('a log is of one file at least');
  const entries = calls.map((call, index): Recorded => {
    const store = names.indexOf(fileOf(call));
    if (store < 0) throw new Error(`${fileOf(call)} was not to be changed`);
    return { change: changeOf(call), store, start: 2 * index + 1, end: 2 * index + 2, ok: true };
  });
  return { initial, initials, entries };
}

function fileOf({ text }: TracedCall): string {
  const [, path = ''] = /^\d+<([^>]*)>/.exec(text) ?? [];
  return basename(Buffer.from(path.replaceAll('\\x', ''), 'hex').toString());
}

function changeOf({ name, text }: TracedCall): Change | { readonly kind: 'flush' } {
  const [, args = '', result] = /^(.*)\) += (\d+)/.exec(text) ?? [];
  if (result === undefined) throw new Error(`${name} failed: ${text}`);
  const [last = 0, before = 0] = args.split(', ').map(Number).reverse();
  switch (name) {
    case 'fsync':
    case 'fdatasync':
      return { kind: 'flush' };
    case 'ftruncate':
      return { kind: 'truncate', size: last };
    case 'fallocate':
      return { kind: args.includes('PUNCH_HOLE') ? 'punch' : 'allocate', position: before, length: last };
    case 'pwrite64':
    case 'pwritev': {
      const hex = [...args.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map(([, bytes = '']) => bytes).join('');
      const data = Buffer.from(hex.replaceAll('\\x', ''), 'hex');
      if (data.length !== Number(result)) throw new Error(`${name} wrote ${result} of ${data.length} bytes`);
      return { kind: 'write', position: last, data };
    }
    default:
      throw new Error(`${name} is not understood: ${text}`);
  }
}
