/** `tree`: draws the backing chain of an image. */
import { describeChain } from '../chain.js';
import type { Context } from '../context.js';
import { parseImageCommand } from '../image-command.js';
import type { ImageDescription } from '../print-info.js';
import { humanSize } from '../sizes.js';
import { spec } from '../specs/tree.js';

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  const [file = ''] = operands;
  let depth = 0;
  // What was found before something is missing is worth seeing.
  for await (const image of describeChain(images.name(file), images)) {
    const branch = depth === 0 ? '' : `${'   '.repeat(depth - 1)}└─ `;
    out.write(`${branch}${out.foreign(image.name)} (${about(image)})\n`);
    out.flush();
    depth += 1;
  }
  return 0;
}

function about({ format, virtualSize, actualSize, details }: ImageDescription): string {
  const facts = [format, `disk ${humanSize(virtualSize)}`];
  if (actualSize !== null) facts.push(`file ${humanSize(actualSize)}`);
  if (details === null) return facts.join(', ');
  const { snapshots, bitmaps, encryption, dataFile, corrupt, dirty } = details;
  if (snapshots.length > 0) facts.push(`${snapshots.length} snapshot${snapshots.length === 1 ? '' : 's'}`);
  if (bitmaps.length > 0) facts.push(`${bitmaps.length} bitmap${bitmaps.length === 1 ? '' : 's'}`);
  if (encryption !== null) facts.push('encrypted');
  if (dataFile !== null) facts.push('external data file');
  if (corrupt) facts.push('marked corrupt');
  if (dirty) facts.push('not closed');
  return facts.join(', ');
}
