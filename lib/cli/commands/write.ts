/** `write`: writes standard input to a disk. */
import type { Context } from '../context.js';
import { explained } from '../error-text.js';
import { Failure } from '../failure.js';
import { parseImageCommand } from '../image-command.js';
import type { WritableDisk } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { sizeArgument } from '../sizes.js';
import { spec } from '../specs/write.js';
import { standardInput } from '../standard-streams.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = '', offset = ''] = operands;
  const start = sizeArgument('offset', offset);
  const opened = await images.openForWriting(images.name(file), context);
  // What is opened for writing can be written to.
  const disk = opened.disk as WritableDisk;
  try {
    if (start > BigInt(disk.size)) {
      throw new Failure(
        `The offset ${start} is past the end of the disk of '${file}', which has ${disk.size} bytes`,
      );
    }
    await interruptible((signal) => writeInput(disk, file, Number(start), signal));
    await disk.close();
  } catch (error) {
    // The first failure is the one to tell.
    await disk.close().catch(() => undefined);
    throw explained('error while writing: ', error, { name: file });
  }
  return 0;
}

/** Writes from `start` on until the input ends. @param name of the disk, for the message */
async function writeInput(
  disk: WritableDisk,
  name: string,
  start: number,
  signal: AbortSignal,
): Promise<void> {
  let at = start;
  for await (const bytes of standardInput(signal) as AsyncIterable<Uint8Array>) {
    if (at + bytes.length > disk.size) {
      throw new Failure(
        `The input goes on past the end of the disk of '${name}', which has ${disk.size} bytes: written up to ${at}`,
      );
    }
    await disk.write(bytes, at);
    at += bytes.length;
  }
  await disk.flush();
}
