/** `inspect`: tells what is in an image without opening anything it refers to, and what is suspicious. */
import { describe } from '../chain.js';
import type { Context } from '../context.js';
import { parseImageCommand } from '../image-command.js';
import type { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import { interruptible } from '../interrupt.js';
import { MemoryStorage } from '../../index.js';
import type { ImageInfo } from '../../index.js';
import type { CheckReport } from '../../operations/check/report.js';
import { isQcow2 } from '../is-qcow2.js';
import { infoText } from '../print-info.js';
import { spec } from '../specs/inspect.js';

/** A disk this many times larger than its file deserves a word. */
const manyTimes = 1_000_000;
const maxFindings = 10;

export async function run(words: readonly string[], { out }: Context): Promise<number> {
  const { images, operands } = parseImageCommand(spec, words);
  images.take('deny-references', '');
  const [file = ''] = operands;
  const name = images.name(file);
  // In place of what the image names, which is not to be opened.
  const image = await describe(name, images, { dataFile: new MemoryStorage() });
  out.write(infoText(image, (text) => out.foreign(text)));
  const { details } = image;
  if (details === null) {
    out.write('\nThe file is no qcow2 image: whatever reads it as raw sees its bytes as they are.\n');
    return 0;
  }
  const suspicious = [
    ...suspicions(details),
    ...damage(details.dataFile === null ? await checked(name, images) : null),
  ];
  if (suspicious.length === 0) {
    out.write(`\n${out.styled('good', 'Nothing suspicious was found.')}\n`);
    return 0;
  }
  out.write(
    `\n${out.styled('warning', 'Suspicious:')}\n${suspicious.map((line) => `- ${out.foreign(line)}\n`).join('')}`,
  );
  return 1;
}

function* suspicions(info: ImageInfo): Generator<string> {
  const { backing, dataFile, encryption, virtualSize, fileSize, dirty, corrupt } = info;
  if (backing !== null) {
    yield `It names the backing file ${JSON.stringify(backing.name)}: opening it in full reads that file of yours.`;
    if (backing.format === null)
      yield 'It does not say the format of its backing file, which then is guessed.';
    if (isOutside(backing.name))
      yield 'The name of the backing file leads out of the directory of the image.';
  }
  if (dataFile !== null) {
    yield `Its data is in another file, ${JSON.stringify(dataFile.name)}: using it reads and overwrites that file of yours.`;
    if (isOutside(dataFile.name ?? ''))
      yield 'The name of the data file leads out of the directory of the image.';
  }
  if (encryption !== null) yield `It is encrypted (${encryption.format}): what it holds cannot be seen.`;
  if (virtualSize > fileSize * manyTimes)
    yield `Its disk of ${virtualSize} bytes is enormous beside the file.`;
  if (dirty) yield 'It was not closed by its last writer.';
  if (corrupt) yield 'It is marked corrupt.';
}

/** Whether a name starts from somewhere else than where the image is, or names a protocol. */
function isOutside(name: string): boolean {
  return name.startsWith('/') || name.split('/').includes('..') || /^[^/]*:/.test(name);
}

async function checked(name: ImageName, images: ImageArguments): Promise<CheckReport | null> {
  const { disk } = await images.openDisk(name, { backing: 'none', forRepair: true });
  try {
    return isQcow2(disk) ? await interruptible((signal) => disk.check({ maxFindings, signal })) : null;
  } finally {
    await disk.close();
  }
}

function* damage(report: CheckReport | null): Generator<string> {
  if (report === null) return;
  const { corruptions, leaks, checkErrors, findings } = report;
  if (corruptions + checkErrors > 0) yield `Its tables are damaged in ${corruptions + checkErrors} places:`;
  if (leaks > 0)
    yield `${leaks} of its clusters are in use by nothing: what they hold is hidden from the guest.`;
  for (const { severity, message } of findings) if (severity !== 'leak') yield message;
}
