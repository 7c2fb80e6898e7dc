/** `mapped`: lists the ranges of a disk that hold data. */
import type { Context } from '../context.js';
import { parseImageCommand } from '../image-command.js';
import { spec } from '../specs/mapped.js';

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = ''] = operands;
  const { disk } = await images.openDisk(images.name(file));
  try {
    const run = { start: 0, end: 0 };
    const print = (): void => {
      if (run.end > run.start) out.write(`${run.start} ${run.end - run.start}\n`);
    };
    for await (const { start, length, type } of disk.extents()) {
      if (type !== 'data' && type !== 'compressed') continue;
      if (start !== run.end) {
        print();
        run.start = start;
      }
      run.end = start + length;
    }
    print();
  } finally {
    await disk.close();
  }
  return 0;
}
