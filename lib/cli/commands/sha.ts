/** `sha`: prints a hash of what a disk shows its guest. */
import { createHash, getHashes } from 'node:crypto';
import type { Context } from '../context.js';
import { Failure } from '../failure.js';
import { parseImageCommand } from '../image-command.js';
import { interruptible } from '../interrupt.js';
import { withProgress } from '../progress.js';
import { spec } from '../specs/sha.js';
import { didYouMean } from '../suggest.js';

const chunkBytes = 1024 * 1024;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { out } = context;
  let algorithm = 'sha256';
  const { images, operands } = parseImageCommand(spec, words, ({ value }) => {
    algorithm = value;
  });
  if (!getHashes().includes(algorithm)) {
    throw new Failure(`There is no hash '${algorithm}'`, didYouMean(algorithm, getHashes()));
  }
  const [file = ''] = operands;
  const { disk } = await images.openDisk(images.name(file), { data: true });
  try {
    const hash = createHash(algorithm);
    const buffer = Buffer.alloc(Math.min(chunkBytes, disk.size));
    await withProgress({}, context, (display) =>
      interruptible(async (signal) => {
        for (let at = 0; at < disk.size; at += chunkBytes) {
          signal.throwIfAborted();
          const piece = buffer.subarray(0, Math.min(chunkBytes, disk.size - at));
          await disk.read(piece, at);
          hash.update(piece);
          display?.update({ done: at + piece.length, total: disk.size });
        }
      }),
    );
    out.write(`${hash.digest('hex')}  ${out.foreign(file)}\n`);
  } finally {
    await disk.close();
  }
  return 0;
}
