// Opens every image in a directory by its path, looks at all of it, and prints how far memory grew: run under strace.
import { openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { convert, dehydrate, hash, MemoryStorage, measure, open, Qcow2Error } from '../../dist/index.js';

const [directory] = process.argv.slice(2);
/** Images that were refused for naming another file. */
let denied = 0;
const largestRead = 4 * 2 ** 20;

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Qcow2Error) return undefined;
    throw error;
  }
}

/** Jobs on the whole image that are only told its path. */
async function work(path) {
  await attempt(() => convert(path, new MemoryStorage(), { targetFormat: 'raw' }));
  await attempt(() => convert(path, new MemoryStorage(), { sourceFormat: 'qcow2', targetFormat: 'qcow2' }));
  await attempt(() => hash(path));
  await attempt(() => dehydrate(path, new Writable({ write: (_chunk, _encoding, done) => done() })));
}

async function look(path, isThorough) {
  let isDenied = false;
  const disk = await attempt(() =>
    open(path).catch((error) => {
      isDenied = error.code === 'ERR_QCOW2_REFERENCE_DENIED';
      throw error;
    }),
  );
  if (isDenied) denied += 1;
  // All that name another file, and some of the rest.
  if (isThorough || isDenied) await work(path);
  if (disk === undefined) return;
  if (isThorough) await attempt(() => measure(disk));
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
await look(join(directory, names[0]), true);
denied = 0;
const before = process.resourceUsage().maxRSS;
mark('begin');
for (const [index, name] of names.entries()) await look(join(directory, name), index % 8 === 0);
mark('end');
console.log(
  JSON.stringify({ images: names.length, denied, grownKiB: process.resourceUsage().maxRSS - before }),
);
