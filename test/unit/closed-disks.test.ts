/** Every job refuses an image that was closed, also one with nothing in it: what would be told of it is no longer known. */
import { expect, it } from 'vitest';
import {
  compare,
  convert,
  create,
  difference,
  hash,
  imagePicture,
  measure,
  open,
  storedBlocks,
  toQcow2Stream,
  type Qcow2,
} from '../../lib/index.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 2 ** 20;

async function drain(items: AsyncIterable<unknown>): Promise<void> {
  for await (const item of items) expect(item).toBeUndefined();
}

it.each<[string, (image: Qcow2) => Promise<unknown>]>([
  ['toQcow2Stream', (image) => toQcow2Stream(image).toArray()],
  ['toQcow2Stream, compressed', (image) => toQcow2Stream(image, { compress: true }).toArray()],
  ['toQcow2Stream, incremental', (image) => toQcow2Stream(image, { changes: [] }).toArray()],
  ['storedBlocks', (image) => storedBlocks(image, 65536)],
  ['extents', (image) => drain(image.extents())],
  ['measure', (image) => measure(image)],
  ['convert to qcow2', (image) => convert(image, path('out'), { targetFormat: 'qcow2' })],
  ['convert to raw', (image) => convert(image, path('out'), { targetFormat: 'raw' })],
  ['convert, compressed', (image) => convert(image, path('out'), { targetFormat: 'qcow2', compress: true })],
  ['hash', (image) => hash(image)],
  ['imagePicture', (image) => imagePicture(image)],
  ['difference from a bitmap', (image) => drain(difference(image, { bitmap: 'nightly' }))],
])('%s', async (_, job) => {
  const image = await create(path('image'), MiB);
  await image.bitmaps.create({ name: 'nightly' });
  await image.close();
  await expect((async () => job(image))()).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
});

it('compare', async () => {
  const image = await create(path('image'), MiB);
  await image.close();
  const disk = await open(path('image'));
  await expect(drain(compare(disk, image))).rejects.toMatchObject({ code: 'ERR_QCOW2_CLOSED' });
  await disk.close();
});
