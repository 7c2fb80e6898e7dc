/** `write`: writes standard input to a disk. */
import { readSync } from 'node:fs';
import type { Context } from '../context.js';
import { Failure } from '../failure.js';
import { parseImageCommand } from '../image-command.js';
import type { WritableDisk } from '../../index.js';
import { sizeArgument } from '../sizes.js';
import { spec } from '../specs/write.js';

const chunkBytes = 1024 * 1024;
const stdin = 0;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = '', offset = ''] = operands;
  const opened = await images.openForWriting(images.name(file), context);
  // What is opened for writing can be written to.
  const disk = opened.disk as WritableDisk;
  try {
    let at = Number(sizeArgument('offset', offset));
    const buffer = Buffer.alloc(chunkBytes);
    for (let got = readSync(stdin, buffer); got > 0; got = readSync(stdin, buffer)) {
      if (at + got > disk.size) {
        throw new Failure(
          `The input goes on past the end of the disk of ${disk.size} bytes: written up to ${at}`,
        );
      }
      await disk.write(buffer.subarray(0, got), at);
      at += got;
    }
    await disk.flush();
  } finally {
    await disk.close();
  }
  return 0;
}
