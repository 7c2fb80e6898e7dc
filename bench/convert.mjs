// Conversions as whole processes beside qemu-img, in turn: median and best seconds, peak memory, and the ratio.
// node bench/convert.mjs [--dir DIR] [--mib SIZE] [--rounds N] [--only TEXT]
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { mixedRaw } from './images.mjs';

const { values } = parseArgs({
  options: {
    dir: { type: 'string', default: join(tmpdir(), 'qcow2-bench') },
    mib: { type: 'string', default: '2048' },
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: '' },
  },
});
const size = Number(values.mib) * 2 ** 20;
const rounds = Number(values.rounds);
const cli = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
mkdirSync(values.dir, { recursive: true });
const at = (name) => join(values.dir, name);

/** Each is converted with the same arguments by both programs; qemu-img gets its out-of-order writes on top. */
const operations = [
  { name: 'raw -> qcow2', args: ['-f', 'raw', '-O', 'qcow2'], from: 'mixed.raw' },
  { name: 'qcow2 -> raw', args: ['-f', 'qcow2', '-O', 'raw'], from: 'mixed.qcow2' },
  { name: 'zlib -> raw', args: ['-f', 'qcow2', '-O', 'raw'], from: 'zlib.qcow2' },
  { name: 'zstd -> raw', args: ['-f', 'qcow2', '-O', 'raw'], from: 'zstd.qcow2' },
  { name: 'raw -> zlib', args: ['-f', 'raw', '-c', '-O', 'qcow2'], from: 'mixed.raw' },
  {
    name: 'raw -> zstd',
    args: ['-f', 'raw', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd'],
    from: 'mixed.raw',
  },
].filter(({ name }) => name.includes(values.only));

await prepare();
for (const operation of operations) await measure(operation);

async function prepare() {
  mixedRaw(at('mixed.raw'), size, size / 2);
  for (const [name, args] of [
    ['mixed.qcow2', []],
    ['zlib.qcow2', ['-c']],
    ['zstd.qcow2', ['-c', '-o', 'compression_type=zstd']],
  ]) {
    if (statSync(at(name), { throwIfNoEntry: false }) !== undefined) continue;
    await run('qemu-img', [
      'convert',
      '-W',
      '-m',
      '16',
      '-f',
      'raw',
      '-O',
      'qcow2',
      ...args,
      at('mixed.raw'),
      at(name),
    ]);
  }
}

async function measure({ name, args, from }) {
  const programs = {
    ours: (out) => run(process.execPath, [cli, 'convert', ...args, at(from), out]),
    'qemu-img': (out) => run('qemu-img', ['convert', ...args, at(from), out]),
    'qemu-img -W -m 16': (out) => run('qemu-img', ['convert', '-W', '-m', '16', ...args, at(from), out]),
  };
  const results = {};
  for (let round = 0; round < rounds; round += 1) {
    for (const [program, convert] of Object.entries(programs)) {
      const out = at('out');
      rmSync(out, { force: true });
      const result = await convert(out);
      (results[program] ??= []).push({ ...result, bytes: statSync(out).size });
      if (program === 'ours' && round === 0) checkSame(from, out, args);
      rmSync(out, { force: true });
    }
  }
  report(name, results);
}

/** Content must be right before its speed counts. */
function checkSame(from, out, args) {
  const format = args[args.indexOf('-O') + 1];
  const compared = spawnSync('qemu-img', ['compare', '-F', format, '-f', args[1], at(from), out]);
  if (compared.status !== 0) throw new Error(`the output differs: ${compared.stdout}${compared.stderr}`);
  if (format !== 'qcow2') return;
  const checked = spawnSync('qemu-img', ['check', '-f', 'qcow2', out]);
  if (checked.status !== 0) throw new Error(`the output is not clean: ${checked.stdout}${checked.stderr}`);
}

function report(name, results) {
  console.log(`\n${name}`);
  for (const [program, runs] of Object.entries(results)) {
    const seconds = runs.map((one) => one.seconds).sort((a, b) => a - b);
    const memory = Math.max(...runs.map((one) => one.kilobytes)) / 1024;
    console.log(
      `  ${program.padEnd(20)} median ${median(seconds).toFixed(2)} s  best ${seconds[0].toFixed(2)} s  ` +
        `${memory.toFixed(0).padStart(4)} MiB  output ${(runs[0].bytes / 2 ** 20).toFixed(1)} MiB`,
    );
  }
  const theirs = Object.keys(results).filter((program) => program !== 'ours');
  const ratios = results.ours.map(
    (one, round) => one.seconds / Math.min(...theirs.map((program) => results[program][round].seconds)),
  );
  ratios.sort((a, b) => a - b);
  console.log(
    `  ratio ours / best qemu-img: ${median(ratios).toFixed(2)} (${ratios[0].toFixed(2)} to ${ratios.at(-1).toFixed(2)})`,
  );
}

function median(sorted) {
  return sorted[Math.floor(sorted.length / 2)];
}

/** Runs a program; its peak memory is what Linux tells shortly before it ends. */
async function run(program, args) {
  const start = process.hrtime.bigint();
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let kilobytes = 0;
  const look = () => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      kilobytes = Math.max(kilobytes, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
    } catch {
      // It has ended, or this is not Linux.
    }
  };
  const timer = setInterval(look, 20);
  let said = '';
  child.stderr.on('data', (chunk) => (said += chunk));
  const [code] = await once(child, 'close');
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  clearInterval(timer);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')}: ${said}`);
  return { seconds, kilobytes };
}
