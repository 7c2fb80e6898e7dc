// Runs the commands that start most often and keeps what V8 compiled of the program for that, so that the program starts in half
// the time. Nothing depends on it: where it is not there, or another build of Node.js runs, V8 compiles as ever.
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const silence = { isTerminal: false, write: () => undefined };

/** Command lines to be run in a folder where `raw` holds a disk; `-` stands for that folder. */
const commandLines = [
  'convert -f raw -O qcow2 -/raw -/image',
  'create -q -f qcow2 -/base 4M',
  'create -q -f qcow2 -o preallocation=metadata -/full 4M',
  'convert -f raw -O qcow2 -B -/base -F qcow2 -/raw -/overlay',
  'info -/image',
  'info --output=json --backing-chain -/overlay',
  'check -/image',
  'map -/image',
  'map --output=json -/image',
  'measure -O qcow2 -/image',
  'compare -/raw -/image',
  'convert -O raw -/image -/copy',
  'convert -c -O qcow2 -/image -/compressed',
  'rebase -f qcow2 -b -/image -F qcow2 -/overlay',
  'rebase -u -f qcow2 -b -/base -F qcow2 -/overlay',
  'commit -/overlay',
  'snapshot -c one -/image',
  'snapshot -l -/image',
  'snapshot -a one -/image',
  'snapshot -d one -/image',
  'resize -/image 8M',
  'bitmap --add -/image marks',
];

/** @throws Error when a command fails, or nothing can be written below the package's folder */
export async function compileProgram() {
  const { compiledFolder, loadProgram } = createRequire(import.meta.url)('../dist/cli/main.cjs');
  rmSync(compiledFolder, { recursive: true, force: true });
  const scripts = new Map();
  const { runProgram } = loadProgram((name, script) => scripts.set(name, script));
  await runCommands(runProgram);
  // Complete or not there: the folder gets its name last.
  const unfinished = `${compiledFolder}.${process.pid}`;
  try {
    mkdirSync(unfinished, { recursive: true });
    for (const [name, script] of scripts) writeDurably(join(unfinished, name), script.createCachedData());
    renameSync(unfinished, compiledFolder);
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    throw error;
  }
}

async function runCommands(runProgram) {
  const folder = mkdtempSync(join(tmpdir(), 'qcow2-compile-'));
  try {
    const disk = Buffer.alloc(2 ** 20);
    disk.fill('content', 0, 2 ** 19);
    writeDurably(join(folder, 'raw'), disk);
    for (const line of commandLines) {
      const words = line.split(' ').map((word) => word.replace(/^-(?=\/)/, folder));
      const exitCode = await runProgram(words, { program: 'qcow2', stdout: silence, stderr: silence });
      if (exitCode !== 0) throw new Error(`qcow2 ${line} ended with ${exitCode}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** V8 looks no further than the length, so half of a file must not stay after a power cut. */
function writeDurably(path, bytes) {
  const file = openSync(path, 'w');
  try {
    writeFileSync(file, bytes);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** The same where it may fail: returns why it did, or undefined. */
export async function tryToCompileProgram() {
  try {
    await compileProgram();
    return undefined;
  } catch (error) {
    return error.message;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const problem = await tryToCompileProgram();
  if (problem !== undefined) console.error(`The program was not compiled ahead: ${problem}`);
}
