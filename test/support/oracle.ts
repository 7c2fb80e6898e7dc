/** qemu-img and qemu-io as judges of what this package writes, and as makers of images for it to read. */
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';

export interface ToolResult {
  exit: number;
  stdout: string;
  stderr: string;
}

export interface ToolOptions {
  /** Any other exit code fails the test with what the tool said; null takes every one. */
  expectExit?: number | null;
}

/** A tool that hangs (waiting for a FIFO, say) fails the test instead, milliseconds. */
const toolTimeout = 60_000;
const maxOutputBytes = 2 ** 28;

export async function qemuImg(args: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
  return run('qemu-img', args, options);
}

export interface QemuIoOptions extends ToolOptions {
  /** `qcow2` by default. */
  format?: string;
  /** More arguments before the file, such as `-r` or `-U`. */
  flags?: readonly string[];
}

/** Runs qemu-io commands such as `write -P 1 0 64k`; it exits with 1 when one fails or a pattern does not match. */
export async function qemuIo(
  file: string,
  commands: readonly string[],
  options: QemuIoOptions = {},
): Promise<ToolResult> {
  const { format = 'qcow2', flags = [] } = options;
  const args = ['-f', format, ...flags, ...commands.flatMap((command) => ['-c', command]), file];
  return run('qemu-io', args, options);
}

/** What `qemu-img info` prints, as far as tests look at it. */
export interface QemuInfo {
  filename: string;
  format: string;
  'virtual-size': number;
  'actual-size': number;
  'cluster-size'?: number;
  'dirty-flag'?: boolean;
  encrypted?: boolean;
  'backing-filename'?: string;
  'full-backing-filename'?: string;
  'backing-filename-format'?: string;
  snapshots?: {
    id: string;
    name: string;
    'vm-state-size': number;
    'date-sec': number;
    'date-nsec': number;
  }[];
  'format-specific'?: {
    type: string;
    data: {
      compat: string;
      'compression-type': string;
      'lazy-refcounts': boolean;
      'refcount-bits': number;
      corrupt: boolean;
      'extended-l2': boolean;
      'data-file'?: string;
      'data-file-raw'?: boolean;
      bitmaps?: { name: string; granularity: number; flags: string[] }[];
      encrypt?: { format: string };
    };
  };
}

export async function qemuInfo(path: string): Promise<QemuInfo> {
  return json(await qemuImg(['info', '-U', '--output=json', path])) as QemuInfo;
}

/** What `qemu-img check` prints; counts that are absent are 0. */
export interface QemuCheck {
  exit: number;
  'check-errors': number;
  corruptions?: number;
  leaks?: number;
  'corruptions-fixed'?: number;
  'leaks-fixed'?: number;
  'image-end-offset'?: number;
  'total-clusters'?: number;
  'allocated-clusters'?: number;
  'fragmented-clusters'?: number;
  'compressed-clusters'?: number;
}

/** Checks an image; exit code 0: clean, 2: corrupt, 3: leaks only. Any other fails the test. */
export async function qemuCheck(path: string, repair?: 'leaks' | 'all'): Promise<QemuCheck> {
  const flags = repair === undefined ? [] : ['-r', repair];
  const result = await qemuImg(['check', '--output=json', '-f', 'qcow2', ...flags, path], {
    expectExit: null,
  });
  if (![0, 2, 3].includes(result.exit)) throw new Error(describe('qemu-img check', path, result));
  return { ...(json(result) as Omit<QemuCheck, 'exit'>), exit: result.exit };
}

/** Fails the test unless qemu-img finds the image without corruption and without leaks. */
export async function expectCleanByQemu(path: string): Promise<void> {
  const result = await qemuImg(['check', '-f', 'qcow2', path], { expectExit: null });
  expect(result.exit, describe('qemu-img check', path, result)).toBe(0);
}

export interface QemuMapEntry {
  start: number;
  length: number;
  depth: number;
  present: boolean;
  zero: boolean;
  data: boolean;
  offset?: number;
}

export async function qemuMap(path: string, format = 'qcow2'): Promise<QemuMapEntry[]> {
  return json(await qemuImg(['map', '--output=json', '-f', format, path])) as QemuMapEntry[];
}

/** Whether two images have the same guest content (a longer one may go on with zeros). */
export async function qemuCompare(
  a: string,
  b: string,
  formats: { a?: string; b?: string } = {},
): Promise<{ same: boolean; output: string }> {
  const { a: formatA = 'qcow2', b: formatB = 'qcow2' } = formats;
  const result = await qemuImg(['compare', '-f', formatA, '-F', formatB, a, b], { expectExit: null });
  if (result.exit > 1) throw new Error(describe('qemu-img compare', `${a} ${b}`, result));
  return { same: result.exit === 0, output: result.stdout };
}

/** The whole guest content of an image, as QEMU reads it: for small disks. */
export async function qemuContent(path: string, format = 'qcow2'): Promise<Buffer> {
  const directory = await mkdtemp(join(tmpdir(), 'qcow2-content-'));
  try {
    const raw = join(directory, 'raw');
    await qemuImg(['convert', '-f', format, '-O', 'raw', path, raw]);
    return await readFile(raw);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * Lets qemu-io hold an image open, with its locks, until `release` is called.
 * @throws when qemu-io cannot open it, with what it said
 */
export async function holdByQemu(
  path: string,
  options: { readOnly?: boolean; format?: string } = {},
): Promise<{ release: () => Promise<void> }> {
  const { readOnly = false, format = 'qcow2' } = options;
  const child = spawn('qemu-io', ['-f', format, ...(readOnly ? ['-r'] : []), path]);
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let said = '';
  await new Promise<void>((resolve, reject) => {
    child.once('error', (error) => reject(whyNotStarted('qemu-io', error)));
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    child.stdout.on('data', (chunk: Buffer) => {
      // The prompt comes once the image is open.
      if (chunk.includes('qemu-io>')) resolve();
    });
    void exited.then(() => reject(new Error(`qemu-io did not open ${path}: ${said}`)));
  });
  return {
    release: async () => {
      child.stdin.end('quit\n');
      await exited;
    },
  };
}

/** Runs any of QEMU's tools. */
export function run(tool: string, args: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
  const { expectExit = 0 } = options;
  return new Promise((resolve, reject) => {
    const settings = { maxBuffer: maxOutputBytes, timeout: toolTimeout };
    execFile(tool, args, settings, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number') {
        reject(whyNotStarted(tool, error));
        return;
      }
      const result = { exit: typeof error?.code === 'number' ? error.code : 0, stdout, stderr };
      if (expectExit === null || result.exit === expectExit) resolve(result);
      else reject(new Error(describe(tool, args.join(' '), result)));
    });
  });
}

function whyNotStarted(tool: string, error: Error): Error {
  const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
  return missing ? new Error(`qemu-utils is missing (${tool}): apt-get install qemu-utils`) : error;
}

function describe(tool: string, args: string, result: ToolResult): string {
  return `${tool} ${args} exited with ${result.exit}:\n${result.stderr}${result.stdout}`;
}

function json(result: ToolResult): unknown {
  return JSON.parse(result.stdout);
}
