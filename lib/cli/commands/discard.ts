/** `discard`: makes a range of a disk read as zeros and gives its space back. */
import type { Context } from '../context.js';
import { parseImageCommand } from '../image-command.js';
import type { WritableDisk } from '../../index.js';
import { isQcow2 } from '../is-qcow2.js';
import { interruptible } from '../interrupt.js';
import { withProgress } from '../progress.js';
import { parseRange, rangeOf } from '../range.js';
import { spec } from '../specs/discard.js';

/** What is discarded without looking whether to stop, bytes: a multiple of every cluster size. */
const pieceBytes = 2 ** 34;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = '', offset = '', length = ''] = operands;
  const wanted = parseRange(offset, length);
  const { disk } = await images.openForWriting(images.name(file), context);
  try {
    const { start, length: total } = rangeOf(disk, file, wanted);
    const end = start + total;
    await withProgress({}, context, (progress) =>
      interruptible(async (signal) => {
        for (let at = start; at < end;) {
          signal.throwIfAborted();
          const stop = Math.min(end, at - (at % pieceBytes) + pieceBytes);
          if (isQcow2(disk)) await disk.discard(at, stop - at);
          // What is opened for writing can be written to.
          else await (disk as WritableDisk).writeZeroes(at, stop - at);
          progress?.update({ done: stop - start, total });
          at = stop;
        }
      }),
    );
  } finally {
    await disk.close();
  }
  return 0;
}
