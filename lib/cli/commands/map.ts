/** `map`: lists which parts of a disk are stored, and where, or draws it. */
import { dataFiles } from '../chain.js';
import type { Context } from '../context.js';
import { UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import { extentRows, type Disk } from '../../index.js';
import { withHoles } from '../../operations/holes.js';
import { spec } from '../specs/map.js';
import type { Output } from '../output.js';
import { outputFormat } from '../output-format.js';
import { writePicture } from '../picture/write.js';
import type { OutputFormat } from '../output-format.js';
import { emptyMapJson, mapHeading, mapJson, mapRows, mapText, zeroRow } from '../print-map.js';
import { sizeArgument, wholeSectors } from '../sizes.js';

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const { name, images, start, length, output, file, html, svg } = parse(words);
  const { disk } = await images.openDisk(name);
  try {
    if (html !== null || svg !== null) {
      await writePicture(disk, file, { html, svg });
      return 0;
    }
    const parts = mapRows(wholeExtents(disk, start, length));
    if (output === 'json') await printJson(parts, start, out);
    else await printText(parts, await dataFiles(name, images), out);
  } finally {
    await disk.close();
  }
  return 0;
}

interface Request {
  name: ImageName;
  images: ImageArguments;
  start: bigint;
  length: bigint | null;
  output: OutputFormat;
  /** The image as the user named it. */
  file: string;
  html: string | null;
  svg: string | null;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  let output = 'human';
  let start = 0n;
  let length: bigint | null = null;
  let html: string | null = null;
  let svg: string | null = null;
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'output') output = value;
    if (name === 'html') html = value;
    if (name === 'svg') svg = value;
    if (name === 'start-offset') start = sizeArgument('start offset', value);
    if (name === 'max-length') length = sizeArgument('max length', value);
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  return { output: outputFormat(output), images, start, length, name: images.name(file), file, html, svg };
}

/** The extents of the part of the disk that is asked for; what fills up the last sector is zeros. */
async function* wholeExtents(disk: Disk, start: bigint, length: bigint | null): AsyncGenerator<Float64Array> {
  const whole = BigInt(wholeSectors(disk.size));
  const end = length === null || start + length > whole ? whole : start + length;
  const dataEnd = end < BigInt(disk.size) ? end : BigInt(disk.size);
  if (start < dataEnd) yield* withHoles(disk, extentRows(disk, { start, length: dataEnd - start }));
  if (start < end && disk.size < end) {
    const from = Math.max(disk.size, Number(start));
    yield zeroRow(from, Number(end) - from);
  }
}

async function printJson(parts: AsyncIterable<Float64Array>, start: bigint, out: Output): Promise<void> {
  let isFirst = true;
  for await (const rows of parts) {
    for (const text of mapJson(rows, isFirst)) out.writeBytes(text);
    isFirst &&= rows.length === 0;
  }
  if (isFirst) out.write(emptyMapJson(Number(start)));
  out.write(']\n');
}

async function printText(
  parts: AsyncIterable<Float64Array>,
  files: readonly string[],
  out: Output,
): Promise<void> {
  out.write(mapHeading);
  const fileName = (depth: number): string => out.foreign(files[depth] ?? '');
  for await (const rows of parts) mapText(rows, fileName, (line) => out.write(line));
}
