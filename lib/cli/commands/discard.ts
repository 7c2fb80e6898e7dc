/** `discard`: makes a range of a disk read as zeros and gives its space back. */
import type { Context } from '../context.js';
import { parseImageCommand } from '../image-command.js';
import type { WritableDisk } from '../../index.js';
import { isQcow2 } from '../is-qcow2.js';
import { rangeOf } from '../range.js';
import { spec } from '../specs/discard.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = '', offset = '', length = ''] = operands;
  const { disk } = await images.openForWriting(images.name(file), context);
  try {
    const range = rangeOf(disk, file, offset, length);
    if (isQcow2(disk)) await disk.discard(range.start, range.length);
    // What is opened for writing can be written to.
    else await (disk as WritableDisk).writeZeroes(range.start, range.length);
  } finally {
    await disk.close();
  }
  return 0;
}
