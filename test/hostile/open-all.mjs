// Opens every image in a directory by its path, looks at all of it, and prints how far memory grew: run under strace.
import { openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { open, Qcow2Error } from '../../dist/index.js';

const [directory] = process.argv.slice(2);
const largestRead = 4 * 2 ** 20;

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Qcow2Error) return undefined;
    throw error;
  }
}

async function look(path) {
  const disk = await attempt(() => open(path));
  if (disk === undefined) return;
  await attempt(() => disk.info());
  await attempt(() => disk.check());
  await attempt(() => disk.read(Buffer.alloc(Math.min(disk.size, largestRead)), 0));
  await disk.close();
}

/** Leaves a trace that nothing else leaves: what came before is Node's own. */
function mark(name) {
  try {
    openSync(join(directory, name));
  } catch {
    // It is not there, and the attempt is all that counts.
  }
}

const names = readdirSync(directory).filter((name) => name.endsWith('.qcow2'));
// The first image loads what is loaded late.
await look(join(directory, names[0]));
const before = process.resourceUsage().maxRSS;
mark('begin');
for (const name of names) await look(join(directory, name));
mark('end');
console.log(JSON.stringify({ images: names.length, grownKiB: process.resourceUsage().maxRSS - before }));
