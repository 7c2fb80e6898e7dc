// The main job on real input, with something to look at: raw disk -> qcow2 -> grow, write, check -> raw.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
  closeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compare, convert, open, openDisk } from 'qcow2';

const MiB = 2 ** 20;
const diskSize = 384 * MiB;
const grownSize = 512 * MiB;
/** A tree of real files; the default is there in every checkout. */
const tree = process.argv[2] ?? fileURLToPath(new URL('../node_modules', import.meta.url));

const directory = mkdtempSync(join(tmpdir(), 'qcow2-demo-'));
const at = (name) => join(directory, name);
let failed = false;

try {
  await demo();
} finally {
  rmSync(directory, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;

async function demo() {
  headline('1. A raw disk');
  const hasFileSystem = makeRawDisk(at('disk.raw'));
  console.log(
    hasFileSystem
      ? `An ext4 file system of ${mib(diskSize)} holding ${tree}`
      : `${mib(diskSize)} of made-up content (with e2fsprogs installed it would be an ext4 file system)`,
  );
  sizes('disk.raw');

  headline('2. raw -> qcow2');
  await timed('convert', () => convert(at('disk.raw'), at('disk.qcow2'), { targetFormat: 'qcow2' }));
  sizes('disk.qcow2');
  await map('disk.qcow2');

  headline('3. The same, compressed');
  await timed('convert with compress', () =>
    convert(at('disk.raw'), at('small.qcow2'), { targetFormat: 'qcow2', compress: true }),
  );
  sizes('small.qcow2');
  verdict('both images show the guest the same disk', await same('disk.qcow2', 'small.qcow2'));

  headline(`4. Grow to ${mib(grownSize)}, write into the new part, check`);
  const disk = await open(at('disk.qcow2'), { mode: 'r+' });
  await timed('resize', () => disk.resize(grownSize));
  const message = Buffer.alloc(24 * MiB, 'Written by the demo. ');
  await timed('write 24 MiB', () => disk.write(message, 448 * MiB));
  await timed('flush', () => disk.flush());
  const report = await timed('check', () => disk.check());
  await disk.close();
  verdict(
    `check: ${report.corruptions} corruptions, ${report.leaks} leaks, ${report.allocatedClusters} of ` +
      `${report.totalClusters} clusters in use`,
    report.corruptions === 0 && report.leaks === 0,
  );
  sizes('disk.qcow2');
  await map('disk.qcow2');

  headline('5. qcow2 -> raw');
  await timed('convert', () => convert(at('disk.qcow2'), at('back.raw'), { targetFormat: 'raw' }));
  sizes('back.raw');
  // What the guest should see by now, put together with plain file calls.
  truncateSync(at('disk.raw'), grownSize);
  const fd = openSync(at('disk.raw'), 'r+');
  writeSync(fd, message, 0, message.length, 448 * MiB);
  closeSync(fd);
  verdict(
    'the raw copy equals the original with the write, byte for byte',
    sameBytes('disk.raw', 'back.raw'),
  );

  headline('6. Second opinions');
  opinion('qemu-img', ['check', at('disk.qcow2')], 'qemu-img check finds the image clean');
  opinion('qemu-img', ['check', at('small.qcow2')], 'qemu-img check finds the compressed image clean');
  opinion(
    'qemu-img',
    ['compare', at('disk.raw'), at('disk.qcow2')],
    'qemu-img compare: raw and qcow2 are identical',
  );
  if (hasFileSystem)
    opinion('e2fsck', ['-fn', at('back.raw')], 'e2fsck finds the file system in the raw copy clean');
}

/** True when it holds a file system, false for made-up content. */
function makeRawDisk(path) {
  const made = spawnSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', tree, path, `${diskSize / MiB}M`], {
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  if (made.status === 0) return true;
  const fd = openSync(path, 'w');
  const line = Buffer.alloc(MiB, 'a line of a log file, much like the next\n');
  for (let i = 0; i < 96; i += 1)
    writeSync(fd, line, 0, line.length - (i % 7) * 65536, (i * 7 * MiB) % diskSize);
  closeSync(fd);
  truncateSync(path, diskSize);
  return false;
}

/** Draws where the data of a disk is: 64 cells a row. */
async function map(name) {
  const columns = 64;
  const rows = 8;
  const { disk } = await openDisk(at(name));
  const cell = disk.size / (columns * rows);
  const stored = new Float64Array(columns * rows);
  for await (const extent of disk.extents()) {
    if (extent.type !== 'data' && extent.type !== 'compressed') continue;
    const end = extent.start + extent.length;
    for (let i = Math.floor(extent.start / cell); i * cell < end && i < stored.length; i += 1) {
      stored[i] += Math.min(end, (i + 1) * cell) - Math.max(extent.start, i * cell);
    }
  }
  await disk.close();
  const shades = [' ', '░', '▒', '▓', '█'];
  console.log(`\n  Map of ${name}, ${kib(cell)} a cell:  █ all stored  ▓▒░ in part  (blank) nothing stored`);
  console.log(`  ┌${'─'.repeat(columns)}┐`);
  for (let row = 0; row < rows; row += 1) {
    const cells = stored.subarray(row * columns, (row + 1) * columns);
    console.log(
      `  │${Array.from(cells, (bytes) => shades[Math.ceil((4 * bytes) / cell)]).join('')}│ ${mib(row * columns * cell)}`,
    );
  }
  console.log(`  └${'─'.repeat(columns)}┘`);
}

async function timed(what, work) {
  const start = performance.now();
  const result = await work();
  console.log(`  ${what.padEnd(24)} ${(performance.now() - start).toFixed(0).padStart(7)} ms`);
  return result;
}

async function same(a, b) {
  const [first, second] = await Promise.all([openDisk(at(a)), openDisk(at(b))]);
  let differences = 0;
  for await (const difference of compare(first.disk, second.disk)) differences += difference.length;
  await Promise.all([first.disk.close(), second.disk.close()]);
  return differences === 0;
}

function sameBytes(a, b) {
  return readFileSync(at(a)).equals(readFileSync(at(b)));
}

function sizes(name) {
  const { size, blocks } = statSync(at(name));
  console.log(`  ${name.padEnd(24)} ${mib(size).padStart(10)} long, ${mib(blocks * 512)} on the medium`);
}

function opinion(tool, args, claim) {
  try {
    execFileSync(tool, args, {
      stdio: 'pipe',
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    });
    verdict(claim, true);
  } catch (error) {
    if (error.code === 'ENOENT') console.log(`  -  ${tool} is not installed: not asked`);
    else {
      verdict(claim, false);
      console.log(String(error.stdout) + String(error.stderr));
    }
  }
}

function verdict(claim, holds) {
  console.log(`  ${holds ? '✓' : '✗ NOT TRUE:'}  ${claim}`);
  if (!holds) failed = true;
}

function headline(text) {
  console.log(`\n${text}\n${'='.repeat(text.length)}`);
}

function mib(bytes) {
  return `${(bytes / MiB).toFixed(1)} MiB`;
}

function kib(bytes) {
  return `${(bytes / 1024).toFixed(0)} KiB`;
}
