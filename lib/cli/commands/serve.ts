/** `serve`: offers a disk to NBD clients until the program is interrupted. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Context } from '../context.js';
import { messageOf } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import { openTemporaryOverlay } from '../../index.js';
import type { Disk } from '../../index.js';
import { serveNbd, type ServeDiskOptions } from '../../nbd/index.js';
import { interruptible, Interrupted } from '../interrupt.js';
import { spec } from '../specs/serve.js';

export async function run(words: readonly string[], { out, complain }: Context): Promise<number> {
  const { name, images, access, options } = parse(words);
  const { disk: opened } = await images.openDisk(name, { mode: access === 'writable' ? 'r+' : 'r' });
  let disk: Disk = opened;
  try {
    if (access === 'snapshot') disk = await openTemporaryOverlay(opened);
    await interruptible(async (signal) => {
      const server = await serveNbd(disk, {
        ...options,
        readOnly: access === 'read-only',
        onError: (error) => complain(messageOf(error)),
      });
      out.write(`${server.uri()}\n`);
      out.flush();
      await untilAborted(signal);
      await server.close();
    }).catch((error: unknown) => {
      // That is how a server is meant to end.
      if (!(error instanceof Interrupted)) throw error;
    });
  } finally {
    await disk.close();
  }
  return 0;
}

type Access = 'read-only' | 'writable' | 'snapshot';

interface Request {
  name: ImageName;
  images: ImageArguments;
  access: Access;
  options: ServeDiskOptions;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const options: ServeDiskOptions = {};
  const bitmaps: string[] = [];
  const wanted = new Set<Access>();
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'read-only' || name === 'writable' || name === 'snapshot') wanted.add(name);
    if (name === 'socket') options.socket = value;
    if (name === 'bind') options.host = value;
    if (name === 'port') options.port = count('port', value, 0, 65535);
    if (name === 'export-name') options.name = value;
    if (name === 'description') options.description = value;
    if (name === 'bitmap') bitmaps.push(value);
    if (name === 'shared') options.maxConnections = count('number of clients', value, 1, 65535);
    if (name === 'tls-certificates') options.tls = certificates(value);
  }
  const [access = 'read-only', ...others] = wanted;
  if (others.length > 0)
    throw new UsageFailure(`--${access} and --${others.join(', --')} exclude each other`);
  if (access === 'snapshot' && bitmaps.length > 0) {
    throw new UsageFailure('--bitmap needs the image itself: leave out --snapshot');
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  return { name: images.name(file), images, access, options: { ...options, bitmaps } };
}

function count(what: string, text: string, least: number, most: number): number {
  const number = /^\d+$/.test(text) ? Number(text) : NaN;
  if (number >= least && number <= most) return number;
  throw new Failure(`Invalid ${what} '${text}': it must be from ${least} to ${most}`);
}

/** The files have the names that QEMU and libnbd give them. */
function certificates(directory: string): NonNullable<ServeDiskOptions['tls']> {
  const path = (name: string): string => join(directory, name);
  try {
    const ca = existsSync(path('ca-cert.pem')) ? readFileSync(path('ca-cert.pem')) : null;
    return {
      cert: readFileSync(path('server-cert.pem')),
      key: readFileSync(path('server-key.pem')),
      ...(ca === null ? {} : { ca, requestCert: true, rejectUnauthorized: true }),
    };
  } catch (cause) {
    throw new Failure(`Could not read the certificates: ${messageOf(cause)}`, { cause });
  }
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  // A server that listens keeps the program alive.
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
