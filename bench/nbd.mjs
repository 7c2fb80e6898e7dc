/** NBD reads: nbdcopy to nowhere from our server and from qemu-nbd, in turn, on one image. node bench/nbd.mjs [--mib N] [--rounds N] */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { parseArgs, promisify } from 'node:util';
import { create } from '../dist/index.js';

const { values } = parseArgs({
  options: { mib: { type: 'string', default: '1024' }, rounds: { type: 'string', default: '5' } },
});
const mebibytes = Number(values.mib);
const rounds = Number(values.rounds);
const directory = mkdtempSync(join(tmpdir(), 'qcow2-bench-nbd-'));
const at = (name) => join(directory, name);
const main = new URL('../dist/cli/main.cjs', import.meta.url).pathname;

/** A disk without a zero in it, since zeros are not sent. */
async function makeImage() {
  const disk = await create(at('disk.qcow2'), mebibytes * 2 ** 20);
  const block = Buffer.alloc(2 ** 20);
  for (let index = 0; index < mebibytes; index += 1) {
    block.fill(`block ${index} `);
    await disk.write(block, index * 2 ** 20);
  }
  await disk.close();
}

const servers = {
  ours: (socket) => [process.execPath, [main, 'serve', '-k', socket, at('disk.qcow2')]],
  'qemu-nbd': (socket) => [
    'qemu-nbd',
    ['-t', '-r', '-e', '16', '-f', 'qcow2', '-k', socket, at('disk.qcow2')],
  ],
};
const clients = {
  'nbdcopy (4 connections, 256 KiB)': [],
  'nbdcopy (1 connection, 256 KiB)': ['--connections=1'],
  'nbdcopy (1 connection, 2 MiB)': ['--connections=1', '--request-size=2097152'],
  'nbdcopy (4 connections, 64 KiB)': ['--request-size=65536'],
};

async function timed(socket, flags) {
  const start = performance.now();
  await promisify(execFile)('nbdcopy', [...flags, `nbd+unix:///?socket=${socket}`, 'null:']);
  return (performance.now() - start) / 1000;
}

const middle = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

try {
  await makeImage();
  const running = [];
  for (const [name, command] of Object.entries(servers)) {
    const socket = at(`${name}.sock`);
    running.push({
      name,
      socket,
      child: spawn(...command(socket), { stdio: ['ignore', 'ignore', 'inherit'] }),
    });
    while (!existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  execFileSync('cat', [at('disk.qcow2')], { stdio: 'ignore' });
  for (const [client, flags] of Object.entries(clients)) {
    const seconds = Object.fromEntries(running.map(({ name }) => [name, []]));
    // In turn, so that what else the machine does meets both.
    for (let round = 0; round <= rounds; round += 1) {
      for (const { name, socket } of running) {
        const taken = await timed(socket, flags);
        if (round > 0) seconds[name].push(taken);
      }
    }
    const [ours, theirs] = [middle(seconds.ours), middle(seconds['qemu-nbd'])];
    const rate = (taken) => `${Math.round(mebibytes / taken)} MiB/s`;
    console.log(
      `${client}: ours ${rate(ours)}, qemu-nbd ${rate(theirs)}, ratio of times ${(ours / theirs).toFixed(2)}`,
    );
  }
  for (const { child } of running) {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}
