/** `compact`: makes an image file as small as it can be. */
import type { Context } from '../context.js';
import { explained } from '../error-text.js';
import { UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import type { CompactReport } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { toJson } from '../json.js';
import { spec } from '../specs/compact.js';
import { outputFormat, type OutputFormat } from '../output-format.js';
import { withProgress } from '../progress.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { out } = context;
  const { name, images, detectZeroes, sort, progress, output, quiet } = parse(words);
  // The backing files are needed only to tell where zeros may be dropped.
  const disk = await images.openQcow2(name, {
    mode: 'r+',
    ...(detectZeroes ? {} : { backing: 'none' }),
  });
  let report: CompactReport;
  try {
    report = await withProgress({ progress, quiet }, context, (display) => {
      display?.begin();
      return interruptible((signal) =>
        disk.compact({
          detectZeroes,
          ...(sort ? { order: 'guest' } : {}),
          signal,
          ...(display === null ? {} : { onProgress: (how) => display.update(how) }),
        }),
      );
    });
  } catch (error) {
    throw explained('', error, { name: name.given });
  } finally {
    await disk.close();
  }
  if (quiet) return 0;
  if (output === 'json') out.write(`${toJson(jsonOf(report))}\n`);
  else out.write(textOf(report));
  return 0;
}

function jsonOf({ copied, updated, oldSize, newSize }: CompactReport): Record<string, number> {
  return { copied, updated, 'old-size': oldSize, 'new-size': newSize };
}

function textOf({ copied, updated, oldSize, newSize }: CompactReport): string {
  return (
    `${copied} bytes moved, ${updated} references changed.\n` +
    `Image file: ${newSize} bytes, ${oldSize - newSize} fewer than before.\n`
  );
}

interface Request {
  name: ImageName;
  images: ImageArguments;
  detectZeroes: boolean;
  sort: boolean;
  progress: boolean;
  output: OutputFormat;
  quiet: boolean;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  const seen = new Set<string>();
  let output = 'human';
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'output') output = value;
    seen.add(name);
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  return {
    name: images.name(file),
    images,
    detectZeroes: seen.has('detect-zeroes'),
    sort: seen.has('sort'),
    progress: seen.has('progress'),
    output: outputFormat(output),
    quiet: seen.has('quiet'),
  };
}
