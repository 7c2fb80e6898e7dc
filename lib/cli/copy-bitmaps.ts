/** `convert --bitmaps`: takes the persistent bitmaps of an image along. */
import { failure, reasonOf } from './error-text.js';
import { Failure } from './failure.js';
import { open, Qcow2 } from '../index.js';
import type { Disk } from '../index.js';
import type { CreateOptions, ImageFormat } from '../options.js';

/** @throws Failure in the words of qemu-img when source or target cannot have bitmaps */
export function refuseBitmaps(source: Disk, format: ImageFormat, { version }: CreateOptions): void {
  if (!(source instanceof Qcow2) || source.header.version < 3)
    throw new Failure('Source lacks bitmap support');
  if (format === 'raw' || version === 2) {
    throw new Failure(`Format driver '${format}' does not support bitmaps`);
  }
}

/**
 * Copies the bitmaps into an image at `path` that has the source's data already.
 * @throws Failure in the words of qemu-img
 */
export async function copyBitmaps(
  source: Qcow2,
  path: string,
  { skipBrokenBitmaps, complain }: { skipBrokenBitmaps: boolean; complain: (message: string) => void },
): Promise<void> {
  const list = await source.bitmaps.list();
  const broken = list.filter(({ consistent }) => !consistent);
  if (broken[0] !== undefined && !skipBrokenBitmaps) {
    throw new Failure(`Cannot copy inconsistent bitmap '${broken[0].name}'`, {
      hint: "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove'",
    });
  }
  for (const { name } of broken) complain(`warning: Skipping inconsistent bitmap '${name}'`);
  const target = await open(path, { mode: 'r+', backing: 'none', resolve: 'any' });
  try {
    for (const { name, granularity, enabled } of list.filter(({ consistent }) => consistent)) {
      await copyBitmap(source, target, { name, granularity, disabled: !enabled });
    }
  } finally {
    await target.close();
  }
}

async function copyBitmap(
  source: Qcow2,
  target: Qcow2,
  bitmap: { name: string; granularity: number; disabled: boolean },
): Promise<void> {
  const { name } = bitmap;
  try {
    if (source.size !== target.size) {
      throw new Failure(
        `Bitmaps are of different sizes (destination size is ${target.size}, source size is ${source.size}) ` +
          "and can't be merged",
      );
    }
    await target.bitmaps.create(bitmap);
    await target.bitmaps.merge(name, [{ disk: source, name }]);
  } catch (error) {
    throw failure(`Failed to populate bitmap ${name}: `, reasonOf(error, { name }), error);
  }
}
