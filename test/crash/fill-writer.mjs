// Writes into an image, snapshot after snapshot, until there is no room; says on stdout what was flushed: run by full-disk.test.ts.
import { createHash, randomBytes } from 'node:crypto';
import { open, create } from '../../dist/index.js';

const [image, kind] = process.argv.slice(2);
const chunk = 64 * 1024;
await (await create(image, 64 * 2 ** 20, { clusterSize: 4096, lazyRefcounts: kind === 'lazy' })).close();
const disk = await open(image, { mode: 'r+' });
/** Digests of the chunks that were flushed, and what failed. */
const report = { flushed: [], errors: [] };
const digest = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** Runs something; false when it failed, which is noted. */
async function attempt(what, work) {
  try {
    await work();
    return true;
  } catch (error) {
    report.errors.push({ what, code: error.code, message: error.message });
    return false;
  }
}

for (let index = 0; ; index += 1) {
  const bytes = Buffer.concat([randomBytes(chunk / 2), Buffer.alloc(chunk / 2, `${index} `)]);
  if (!(await attempt('write', () => disk.write(bytes, index * chunk, { compress: kind === 'compressed' }))))
    break;
  if (!(await attempt('flush', () => disk.flush()))) break;
  report.flushed.push(digest(bytes));
  if (kind === 'snapshots' && index % 4 === 3) {
    if (!(await attempt('snapshot', () => disk.snapshots.create({ name: String(index) })))) break;
  }
}
// What was flushed can still be read through the same handle.
const got = Buffer.alloc(chunk);
for (const [index, flushed] of report.flushed.entries()) {
  await disk.read(got, index * chunk);
  if (digest(got) !== flushed) throw new Error(`chunk ${index} is not what was flushed`);
}
await attempt('another write', () => disk.write(Buffer.alloc(2 ** 20, 'more '), 32 * 2 ** 20));
await attempt('another flush', () => disk.flush());
await attempt('close', () => disk.close());
process.stdout.write(JSON.stringify(report));
