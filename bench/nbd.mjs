// NBD reads from `qcow2 serve` and from qemu-nbd, of one image, in turn, by the clients that people use.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { create } from '../dist/index.js';
import { openNbd } from '../dist/nbd/index.js';

const MiB = 2 ** 20;
const cli = fileURLToPath(new URL('../dist/cli/main.cjs', import.meta.url));

const servers = {
  ours: (socket, disk) => [process.execPath, [cli, 'serve', '-k', socket, disk]],
  'qemu-nbd': (socket, disk) => ['qemu-nbd', ['-t', '-r', '-e', '16', '-f', 'qcow2', '-k', socket, disk]],
};

/** What is measured, by name: a program that reads a whole disk, or a number of requests. */
function clients(mebibytes) {
  const copy = (...flags) => ({
    unit: 'MiB/s',
    amount: mebibytes,
    command: (uri) => ['nbdcopy', ...flags, uri, 'null:'],
  });
  const requests = (length, depth) => {
    const count = Math.max(200, Math.round((mebibytes * 16) / Math.max(1, length / 16384)));
    const step = 7 * 65536 + length;
    const args = [
      'bench',
      '-f',
      'raw',
      '-c',
      String(count),
      '-d',
      String(depth),
      '-s',
      String(length),
      '-S',
      String(step),
    ];
    return { unit: 'requests/s', amount: count, command: (uri) => ['qemu-img', ...args, uri] };
  };
  return {
    'nbdcopy, 4 connections, 256 KiB': copy(),
    'nbdcopy, 1 connection, 256 KiB': copy('--connections=1'),
    'nbdcopy, 1 connection, 2 MiB': copy('--connections=1', '--request-size=2097152'),
    'nbdcopy, 4 connections, 64 KiB': copy('--request-size=65536'),
    '4 KiB, depth 1': requests(4096, 1),
    '4 KiB, depth 16': requests(4096, 16),
    '64 KiB, depth 1': requests(65536, 1),
    '64 KiB, depth 16': requests(65536, 16),
  };
}

/**
 * @param {string} folder for an image and sockets
 * @param {{ scale: number, rounds: number }} options a disk of 4 GiB is read at full size
 * @returns {Promise<{ name: string, unit: string, values: Record<string, number> }[]>} the best of all rounds
 */
export async function measureNbd(folder, { scale, rounds }) {
  const mebibytes = Math.max(16, Math.round(4096 * scale));
  const disk = join(folder, `nbd-${mebibytes}.qcow2`);
  if (!existsSync(disk)) await makeImage(disk, mebibytes);
  const running = [];
  try {
    for (const [name, command] of Object.entries(servers)) {
      const socket = join(folder, `${name}.sock`);
      rmSync(socket, { force: true });
      const child = spawn(...command(socket, disk), { stdio: ['ignore', 'ignore', 'inherit'] });
      running.push({ name, uri: `nbd+unix:///?socket=${socket}`, child, exited: once(child, 'exit') });
      while (!existsSync(socket)) {
        if (child.exitCode !== null) throw new Error(`${name} did not start`);
        await sleep(20);
      }
    }
    const rows = [];
    for (const [name, { unit, amount, command }] of Object.entries(clients(mebibytes))) {
      const seconds = await inTurn(running, rounds, ({ uri }) => program(command(uri)));
      rows.push({ name: `NBD, ${name}`, unit, values: rates(seconds, amount) });
    }
    const seconds = await inTurn(running, rounds, ({ uri }) => readAll(uri));
    rows.push({ name: 'NBD, all of it by openNbd', unit: 'MiB/s', values: rates(seconds, mebibytes) });
    return rows;
  } finally {
    for (const { child } of running) child.kill('SIGTERM');
    await Promise.all(running.map(({ exited }) => exited));
  }
}

/** Best seconds of each server, which take turns, so that what else the machine does meets all. */
async function inTurn(running, rounds, work) {
  const best = {};
  for (let round = 0; round <= rounds; round += 1) {
    for (const server of running) {
      const start = performance.now();
      await work(server);
      const seconds = (performance.now() - start) / 1000;
      best[server.name] = Math.min(best[server.name] ?? Infinity, seconds);
    }
  }
  return best;
}

const rates = (seconds, amount) =>
  Object.fromEntries(Object.entries(seconds).map(([name, taken]) => [name, Math.round(amount / taken)]));

function program([name, ...args]) {
  const { status, stderr } = spawnSync(name, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${name} ${args.join(' ')}: ${stderr}`);
}

async function readAll(uri) {
  const disk = await openNbd(uri);
  const buffer = Buffer.allocUnsafe(8 * MiB);
  for (let at = 0; at < disk.size; at += buffer.length) {
    await disk.read(buffer.subarray(0, Math.min(buffer.length, disk.size - at)), at);
  }
  await disk.close();
}

/** A disk without a zero in it, since zeros are not sent. */
async function makeImage(path, mebibytes) {
  const disk = await create(path, mebibytes * MiB);
  const block = Buffer.alloc(MiB);
  for (let index = 0; index < mebibytes; index += 1) {
    block.fill(`block ${index} `);
    await disk.write(block, index * MiB);
  }
  await disk.close();
}
