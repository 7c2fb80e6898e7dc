/** What QEMU's and libnbd's tools make of the metadata contexts of our server, and of qemu-nbd's beside it. */
import { expect, it } from 'vitest';
import { open, openDisk } from '../../lib/index.js';
import { serveNbd } from '../../lib/nbd/index.js';
import { qemuImg, qemuIo, run } from '../support/oracle.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();

/** A chain of three, with something in each layer and zeros over data. */
async function makeChain(): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', path('base.qcow2'), '16M']);
  await qemuIo(path('base.qcow2'), ['write -P 1 0 3M', 'write -P 2 8M 1M']);
  let below = 'base.qcow2';
  for (const [name, ...commands] of [
    ['middle.qcow2', 'write -P 3 1M 1M', 'write -z 8M 64k'],
    ['top.qcow2', 'write -P 4 1M 64k', 'write -P 5 12M 256k', 'write -z 2M 64k'],
  ] as const) {
    await qemuImg(['create', '-q', '-f', 'qcow2', '-b', path(below), '-F', 'qcow2', path(name)]);
    await qemuIo(path(name), commands);
    below = name;
  }
  await qemuImg(['bitmap', '--add', '-f', 'qcow2', path('top.qcow2'), 'b']);
  await qemuIo(path('top.qcow2'), ['write -P 6 5M 128k', 'write -P 7 10M 1M']);
  return path('top.qcow2');
}

interface Run {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

async function mapOf(uri: string, context: string): Promise<Run[]> {
  const { stdout } = await run('nbdinfo', ['--json', `--map=${context}`, uri]);
  const runs: { offset: number; length: number; type: number }[] = [];
  for (const { offset, length, type } of JSON.parse(stdout) as Run[]) {
    const last = runs.at(-1);
    if (last?.type === type) last.length += length;
    else runs.push({ offset, length, type });
  }
  return runs;
}

const dirtyMap = async (socket: string): Promise<string> =>
  (
    await qemuImg([
      'map',
      '--output=json',
      '--image-opts',
      `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:b`,
    ])
  ).stdout;

it('qemu:allocation-depth, by nbdinfo; qemu:dirty-bitmap, by nbdinfo and qemu-img map', async () => {
  const top = await makeChain();
  await using theirs = await qemuNbd(path('theirs'), ['-r', '-A', '-B', 'b', '-f', 'qcow2', top]);
  await using disk = await open(top, { lock: false, resolve: 'any' });
  await using server = await serveNbd(disk, { socket: path('ours'), bitmaps: ['b'] });
  for (const context of ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:b']) {
    const expected = await mapOf(theirs.uri, context);
    expect(expected.length).toBeGreaterThan(2);
    expect(await mapOf(server.uri(), context), context).toEqual(expected);
  }
  expect(JSON.parse(await dirtyMap(path('ours')))).toEqual(JSON.parse(await dirtyMap(path('theirs'))));
});

it('the depth of a raw disk', async () => {
  await qemuImg(['create', '-q', '-f', 'raw', path('disk.raw'), '4M']);
  await qemuIo(path('disk.raw'), ['write -P 1 1M 1M'], { format: 'raw' });
  await using theirs = await qemuNbd(path('theirs'), ['-r', '-A', '-f', 'raw', path('disk.raw')]);
  const { disk } = await openDisk(path('disk.raw'), { format: 'raw', lock: false });
  await using server = await serveNbd(disk, { socket: path('ours') });
  expect(await mapOf(server.uri(), 'qemu:allocation-depth')).toEqual(
    await mapOf(theirs.uri, 'qemu:allocation-depth'),
  );
  await disk.close();
});
