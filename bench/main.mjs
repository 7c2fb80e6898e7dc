// Operations as whole processes beside qemu-img and others, in turn; see README.md.
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ratio, ratios, seconds, summary } from './figures.mjs';
import { imageFolder } from './images.mjs';
import { operations } from './operations.mjs';
import { page } from './page.mjs';
import { has, run, timed } from './process.mjs';
import { measureGrowth, measureInProcess } from './in-process.mjs';
import { measureNbd } from './nbd.mjs';
import { measureStreams } from './streams.mjs';

/** Programs that others are told to run. */
const toolNames = ['nbdcopy', 'qemu-nbd'];
/** Programs that show how fast bytes can be copied, whatever the format should be. */
const limits = ['cp', 'dd'];
const tmpfs = '/dev/shm';
const tmpfsMagic = 0x01021994;

const { values } = parseArgs({
  options: {
    dir: { type: 'string', multiple: true },
    scale: { type: 'string', default: '0.25' },
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', multiple: true, default: [''] },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    page: { type: 'string' },
  },
});
const scale = values.quick ? 1 / 256 : Number(values.scale);
const rounds = values.quick ? 1 : Number(values.rounds);
const cli = fileURLToPath(new URL('../dist/cli/main.cjs', import.meta.url));
const folders = values.dir ?? (values.quick ? [tmpdir()] : [tmpdir(), ...tmpfsFolder()]);
const chosen = (name) => values.only.some((text) => name.includes(text));

const results = {
  date: new Date().toISOString(),
  machine: machine(),
  scale,
  rounds,
  operations: [],
  inProcess: [],
};
console.log(
  Object.entries(results.machine)
    .map(([what, value]) => `${what}: ${value}`)
    .join('\n'),
);
console.log(`size factor ${scale}, ${rounds} rounds`);
for (const parent of folders) {
  const folder = join(parent, `qcow2-bench-${scale}`);
  mkdirSync(folder, { recursive: true });
  const where = statfsSync(folder).type === tmpfsMagic ? 'tmpfs' : 'disk';
  for (const operation of operations.filter(({ name }) => chosen(name))) {
    if (!hasCommand(operation.command)) {
      console.log(`\n${operation.name}: left out, the command line has no ${operation.command}`);
      continue;
    }
    const result = { where, ...(await measure(operation, folder)) };
    results.operations.push(result);
    print(result);
  }
  const image = imageFolder(folder, scale);
  const onDisk = {
    'in process': () => measureInProcess(image, folder, { rounds }),
    streams: () => measureStreams(image('mixed.qcow2'), folder, { scale, rounds }),
    nbd: () => measureNbd(folder, { scale, rounds }),
  };
  // Not every file system has files of 16 TiB: where there is a tmpfs, it is the last of the folders.
  const last = { growth: () => measureGrowth(folder, { scale, rounds }) };
  const parts = { ...(where === 'disk' ? onDisk : {}), ...(parent === folders.at(-1) ? last : {}) };
  for (const [part, measureRows] of Object.entries(parts)) {
    if (!chosen(part)) continue;
    const rows = await measureRows();
    results.inProcess.push(...rows);
    for (const { name, unit, values: measured } of rows) {
      console.log(
        `${name}: ${Object.entries(measured)
          .map(([key, value]) => `${key} ${value}`)
          .join(', ')} ${unit}`,
      );
    }
  }
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
if (values.page !== undefined) writeFileSync(values.page, page(results));

function hasCommand(command) {
  return spawnSync(process.execPath, [cli, command, '--help']).status === 0;
}

/** What other programs make is looked at as well: some cannot do all that is asked of them. */
function isRight(operation, paths) {
  try {
    operation.check?.(paths, cli);
    return true;
  } catch {
    return false;
  }
}

/** Whether all programs of a command are on this machine: those that it names to another as well. */
function isThere(command) {
  return command.filter((word, index) => index === 0 || toolNames.includes(word)).every(has);
}

function tmpfsFolder() {
  try {
    return statfsSync(tmpfs).type === tmpfsMagic ? [tmpfs] : [];
  } catch {
    return [];
  }
}

function machine() {
  const [cpu] = cpus();
  return {
    processor: `${cpus().length} x ${cpu?.model ?? 'unknown'}`,
    memory: `${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
    kernel: release(),
    node: process.version,
    'qemu-img': run('qemu-img', '--version').split('\n')[0].replace('qemu-img version ', ''),
  };
}

/** All programs in turn, round by round, each from the same start; the first round's results of ours are checked. */
async function measure(operation, folder) {
  const { name, target, images, changes = false, exitCode = 0, atMostRounds = Infinity } = operation;
  const image = imageFolder(folder, scale);
  const size = `${Math.max(64, Math.round(2 ** 20 * scale))}M`;
  const paths = {
    image,
    out: join(folder, 'out'),
    work: join(folder, 'work.qcow2'),
    base: join(folder, 'base.qcow2'),
    size,
  };
  for (const needed of images) image(needed);
  const commands = { ours: [process.execPath, cli, ...operation.ours(paths)], ...operation.theirs(paths) };
  const programs = Object.entries(commands).filter(([, command]) => isThere(command));
  for (const [program, command] of Object.entries(commands)) {
    if (!isThere(command)) console.log(`\n${name}: ${program} is left out, it is not on this machine`);
  }
  const runs = Object.fromEntries(programs.map(([program]) => [program, []]));
  const wrong = new Set();
  for (let round = 0; round < Math.min(rounds, atMostRounds); round += 1) {
    for (const [program, command] of programs) {
      if (wrong.has(program)) continue;
      rmSync(paths.out, { force: true });
      if (changes) run('cp', '--sparse=always', '--reflink=auto', image(images[0]), paths.work);
      operation.prepare?.(paths);
      runs[program].push(await timed(command, [exitCode]));
      if (round > 0 || program.startsWith('qemu-img')) continue;
      if (program === 'ours') operation.check?.(paths, cli);
      else if (!limits.includes(command[0]) && !isRight(operation, paths)) wrong.add(program);
    }
  }
  for (const left of [paths.out, paths.work, paths.base]) rmSync(left, { force: true });
  for (const program of wrong) {
    console.log(`\n${name}: ${program} is left out, its result is not right`);
    delete runs[program];
  }
  return { name, target, runs, ratio: summary(ratios(runs)) };
}

function print({ name, where, target, runs, ratio: reached }) {
  console.log(`\n${name} (${where})`);
  for (const [program, all] of Object.entries(runs)) {
    const { median, min } = summary(all.map((one) => one.seconds));
    const peak = Math.max(...all.map((one) => one.mebibytes ?? 0));
    console.log(
      `  ${program.padEnd(20)} median ${seconds(median).padStart(7)} s  best ${seconds(min).padStart(7)} s  ` +
        `${peak.toFixed(0).padStart(4)} MiB`,
    );
  }
  console.log(
    `  ours / best stock: ${ratio(reached.median)} (${ratio(reached.min)} to ${ratio(reached.max)}), aim ${target}`,
  );
}
