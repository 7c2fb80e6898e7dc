// Does many operations of all kinds on one image, with the natives beside them, and prints how much memory is held in between:
// node --expose-gc operate.mjs IMAGE OPERATIONS
import { create, open } from '../../dist/index.js';

const [path, count] = process.argv.slice(2);
const operations = Number(count);
const size = 64 * 2 ** 20;
const cluster = 65536;
const samples = 10;

await (await create(path, size)).close();
let disk = await open(path, { mode: 'r+', cacheBytes: 2 ** 20 });
const data = Buffer.alloc(4096, 'some text ');
const buffer = Buffer.alloc(4096);
const whole = Buffer.alloc(cluster, 'text that packs well ');
let state = 1;
const below = (limit) => (state = (state * 48271) % 2147483647) % limit;

async function operate(i) {
  const at = below(size / 4096) * 4096;
  if (i % 5000 === 4999) {
    await disk.check();
    await disk.close();
    disk = await open(path, { mode: 'r+', cacheBytes: 2 ** 20 });
  } else if (i % 1000 === 999) {
    await disk.bitmaps.create({ name: 'b' });
    await disk.snapshots.create({ name: 's' });
    for await (const _ of disk.extents());
    const view = await disk.snapshots.open('s');
    await view.read(buffer, at);
    await view.close();
    await disk.snapshots.delete('s');
    await disk.bitmaps.remove('b');
  } else if (i % 100 === 99) await disk.flush();
  else if (i % 97 === 0) await disk.write(whole, at - (at % cluster), { compress: true });
  else if (i % 53 === 0) await disk.discard(at, cluster > size - at ? size - at : cluster);
  else if (i % 3 === 0) await disk.write(data, at);
  else await disk.read(buffer, at);
  // What is refused must not leak either.
  if (i % 50 === 0) await disk.read(buffer, size).catch(() => undefined);
}

const held = [];
for (let i = 0; i < operations; i += 1) {
  await operate(i);
  if ((i + 1) % Math.floor(operations / samples) !== 0) continue;
  global.gc();
  await new Promise((resolve) => setImmediate(resolve));
  global.gc();
  const { rss, heapUsed, external } = process.memoryUsage();
  held.push({ rss, heapUsed, external });
}
await disk.close();
console.log(JSON.stringify(held));
