/** Whatever a call comes to, the files that the library opened for it are closed again. Linux only: it looks at descriptors. */
import { createReadStream, createWriteStream } from 'node:fs';
import { readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { finished } from 'node:stream/promises';
import { Readable } from 'node:stream';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  convert,
  create,
  fromQcow2Stream,
  hash,
  open,
  openChain,
  openDisk,
  openTemporaryOverlay,
  toQcow2Stream,
  type SizedStream,
} from '../../lib/index.js';
import { openNbd, serveNbd } from '../../lib/nbd/index.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const MiB = 2 ** 20;
const path = useTempDir('memory');
const aborted = AbortSignal.abort(new Error('enough'));

/** What this process has open in the directory of the test. */
async function openFiles(): Promise<string[]> {
  const links = (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ''));
  return (await Promise.all(links)).filter((link) => link.startsWith(path()));
}

beforeEach(async () => {
  const base = await create(path('base'), 4 * MiB);
  await base.write(pattern(1, MiB), 0);
  await base.close();
  const disk = await create(path('disk'), 4 * MiB, { backing: { name: 'base', format: 'qcow2' } });
  await disk.write(pattern(2, MiB), MiB);
  await disk.close();
  // Its L1 entry leads past the end.
  const damaged = await readFile(path('disk'));
  damaged.writeUInt8(0x7f, damaged.readUInt32BE(44) + 4);
  await writeFile(path('damaged'), damaged);
  await writeFile(path('text'), 'no image');
});

/** Takes some of a stream, and then no more. */
async function begin(stream: SizedStream): Promise<void> {
  await stream.sized();
  await new Promise((resolve) => stream.once('readable', resolve));
  stream.read(1);
  stream.destroy();
  await finished(stream).catch(() => undefined);
}

const any = { resolve: 'any' } as const;

const succeeding: Record<string, () => Promise<unknown>> = {
  'a chain': async () => (await open(path('disk'), any)).close(),
  'a chain put together': async () =>
    (await openChain([{ source: path('disk') }, { source: path('base') }])).close(),
  'a copy': () => convert(path('disk'), path('copy'), { targetFormat: 'raw', open: any }),
  hashes: () => hash(path('base'), { algorithm: 'sha256' }),
  'a temporary overlay': async () => {
    const { disk } = await openDisk(path('base'));
    const overlay = await openTemporaryOverlay(disk);
    await overlay.write(pattern(3, MiB), 0);
    await overlay.close();
    await disk.close();
  },
  'a stream that is left': () => begin(toQcow2Stream(path('base'))),
  'a compressed stream that is left': () => begin(toQcow2Stream(path('base'), { compress: true })),
  'a stream there and back': async () => {
    await finished(toQcow2Stream(path('base'), { compress: true }).pipe(createWriteStream(path('streamed'))));
    await fromQcow2Stream(createReadStream(path('streamed')), path('back'), { targetFormat: 'qcow2' });
  },
  'a server and its client': async () => {
    const image = await open(path('base'));
    const server = await serveNbd(image, { socket: path('socket') });
    const client = await openNbd(server.uri());
    await client.read(Buffer.alloc(MiB), 0);
    await client.close();
    await server.close();
    await image.close();
  },
};

const failing: Record<string, () => Promise<unknown>> = {
  'no image': () => open(path('text')),
  'a chain that may not be followed': () => open(path('disk')),
  'a chain of which one is no image': () =>
    openChain([{ source: path('disk') }, { source: path('text'), format: 'qcow2' }]),
  'options that make no sense': () => create(path('new'), MiB, { clusterSize: 12345 }),
  'a backing file that is not there': () =>
    create(path('new'), MiB, { backing: { name: 'none', format: 'raw' } }),
  'a copy of something damaged': () =>
    convert(path('damaged'), path('copy'), { targetFormat: 'raw', open: any }),
  'a copy into a directory that is not there': () =>
    convert(path('base'), path('none/copy'), { targetFormat: 'qcow2' }),
  'an aborted copy': () => convert(path('base'), path('copy'), { targetFormat: 'raw', signal: aborted }),
  'hashes of something damaged': () => hash(path('damaged'), { algorithm: 'sha256', open: any }),
  'a stream of something damaged': () => toQcow2Stream(path('damaged'), { open: any }).toArray(),
  'an aborted stream': () => toQcow2Stream(path('base'), { signal: aborted }).toArray(),
  'a stream in that is cut off': async () => {
    const bytes = await readFile(path('base'));
    return fromQcow2Stream(Readable.from([bytes.subarray(0, bytes.length - 70_000)]), path('back'), {
      targetFormat: 'raw',
    });
  },
  'a restore of something damaged': () =>
    fromQcow2Stream(createReadStream(path('damaged')), path('back'), { targetFormat: 'qcow2' }),
  'a socket that is taken': async () => {
    const image = await open(path('base'));
    try {
      await serveNbd(image, { socket: path('text') });
    } finally {
      await image.close();
    }
  },
};

describe('nothing stays open after', () => {
  it.each(Object.keys(succeeding))('%s', async (name) => {
    await succeeding[name]?.();
    expect(await openFiles()).toEqual([]);
  });

  it.each(Object.keys(failing))('%s', async (name) => {
    await expect(failing[name]?.()).rejects.toThrow();
    expect(await openFiles()).toEqual([]);
  });
});
