/** `read`: writes a range of a disk to standard output. */
import type { Context } from '../context.js';
import { parseImageCommand } from '../image-command.js';
import { parseRange, rangeOf } from '../range.js';
import { spec } from '../specs/read.js';

const chunkBytes = 1024 * 1024;

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = '', offset = '', length = ''] = operands;
  const wanted = parseRange(offset, length);
  const { disk } = await images.openDisk(images.name(file), { data: true });
  try {
    const range = rangeOf(disk, file, wanted);
    const buffer = Buffer.alloc(Math.min(chunkBytes, range.length));
    const end = range.start + range.length;
    for (let at = range.start; at < end; at += chunkBytes) {
      const piece = buffer.subarray(0, Math.min(chunkBytes, end - at));
      await disk.read(piece, at);
      out.writeBytes(piece);
    }
  } finally {
    await disk.close();
  }
  return 0;
}
