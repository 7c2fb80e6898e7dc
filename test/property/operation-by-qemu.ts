/** What QEMU does in a random history while the image is closed. */
import { PlainBitmap } from '../support/bitmap-oracle.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import type { Random } from '../support/pattern.js';
import type { PlainDisk } from '../support/plain-disk.js';
import { mark, type ImageModel } from './operation-model.js';

/** Lets QEMU change a closed image. Returns what it did. */
export async function changeByQemu(
  image: ImageModel,
  random: Random,
  newName: () => string,
): Promise<string> {
  const { path, disk, snapshots, bitmaps, version, backing, refcountBits } = image;
  const hasDataFile = image.kind.options.dataFile !== undefined;
  const [firstBitmap] = [...bitmaps];
  const known = [...snapshots].filter(([, model]) => model !== null);
  const choice = random.below(6);
  if (choice === 0 && !hasDataFile && snapshots.size < 5 && refcountBits >= 16) {
    const name = newName();
    await qemuImg(['snapshot', '-c', name, path]);
    snapshots.set(name, disk.clone());
    return `snapshot ${name}`;
  }
  if (choice === 1 && version === 3) {
    const name = newName();
    const granularity = 2 ** random.between(9, 16);
    await qemuImg(['bitmap', '--add', '-g', String(granularity), path, name]);
    const model = new PlainBitmap(disk.size, granularity);
    // It merges what this package has recorded into its own.
    for (const [other, { model: from }] of bitmaps) {
      await qemuImg(['bitmap', '--merge', other, path, name]);
      for (const { start, length } of from.ranges()) model.set(start, length);
    }
    bitmaps.set(name, { model, enabled: true });
    return `bitmap ${name}`;
  }
  if (choice === 2 && known.length > 0 && bitmaps.size === 0 && refcountBits >= 16) {
    const [name, model] = random.pick(known as [(typeof known)[0], ...typeof known]);
    await qemuImg(['snapshot', '-a', name, path]);
    image.disk = model?.clone() ?? disk;
    return `apply ${name}`;
  }
  if (choice === 3 && firstBitmap !== undefined) {
    await qemuImg(['bitmap', '--clear', path, firstBitmap[0]]);
    firstBitmap[1].model.clear();
    return `clear ${firstBitmap[0]}`;
  }
  if (choice === 4 && backing === null && snapshots.size > 0) {
    const [name = ''] = [...snapshots.keys()];
    await qemuImg(['snapshot', '-d', name, path]);
    snapshots.delete(name);
    return `delete ${name}`;
  }
  await writeByQemu(path, disk, 'qcow2', random, (start, length) => mark(image, start, length));
  return 'writes';
}

/** Has QEMU write a few ranges of a disk of this content. */
export async function writeByQemu(
  file: string,
  model: PlainDisk,
  format: string,
  random: Random,
  note: (start: number, length: number) => void,
): Promise<void> {
  const commands: string[] = [];
  for (let i = 0; i < 4; i += 1) {
    const length = Math.min(model.size, random.between(1, 100) * 512);
    const start = random.below((model.size - length) / 512 + 1) * 512;
    const value = random.below(4) * 60;
    commands.push(value === 0 ? `write -z ${start} ${length}` : `write -P ${value} ${start} ${length}`);
    model.write(Buffer.alloc(length, value), start);
    note(start, length);
  }
  await qemuIo(file, commands, { format });
}
