/** `info`: tells what an image is, without opening what it refers to unless told to. */
import { describe, describeChain } from '../chain.js';
import type { Context } from '../context.js';
import { UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import { toJson } from '../json.js';
import { spec } from '../specs/info.js';
import { outputFormat } from '../output-format.js';
import type { OutputFormat } from '../output-format.js';
import { infoJson, infoText } from '../print-info.js';
import type { ImageDescription } from '../print-info.js';

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const { name, images, chain, output } = parse(words);
  const found: ImageDescription[] = [];
  // Nothing is printed before all of it is known: a list that breaks off is no JSON.
  if (!chain) found.push(await describe(name, images));
  else for await (const image of describeChain(name, images)) found.push(image);
  if (output === 'json') {
    const list = found.map(infoJson);
    out.write(`${toJson(chain ? list : (list[0] ?? {}))}\n`);
  } else {
    out.write(found.map((image) => infoText(image, (text) => out.foreign(text))).join('\n'));
  }
  return 0;
}

interface Request {
  name: ImageName;
  images: ImageArguments;
  chain: boolean;
  output: OutputFormat;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  let chain = false;
  let output = 'human';
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'backing-chain') chain = true;
    if (name === 'output') output = value;
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  return { output: outputFormat(output), images, chain, name: images.nameWithoutBacking(file) };
}
