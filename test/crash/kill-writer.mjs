// Changes an image by a plan until it is killed, and says on stdout what it begins and what is done: run by kill.test.ts.
import { readFileSync, writeSync } from 'node:fs';
import { open } from '../../dist/index.js';

const [image, planFile] = process.argv.slice(2);
const plan = JSON.parse(readFileSync(planFile, 'utf8'));
const disk = await open(image, { mode: 'r+', resolve: 'same-directory', cacheBytes: 64 * 1024 });

function perform({ what, position, length, text, name }) {
  if (what === 'write') return disk.write(Buffer.alloc(length, text), position);
  if (what === 'compress') return disk.write(Buffer.alloc(length, text), position, { compress: true });
  if (what === 'zero') return disk.writeZeroes(position, length);
  if (what === 'discard') return disk.discard(position, length);
  if (what === 'snapshot') return disk.snapshots.create({ name });
  if (what === 'delete') return disk.snapshots.delete(name);
  return disk.flush();
}

writeSync(1, 'open\n');
for (const [index, together] of plan.entries()) {
  writeSync(1, `begin ${index}\n`);
  await Promise.all(together.map(perform));
  writeSync(1, `done ${index}\n`);
}
await disk.close();
writeSync(1, 'closed\n');
