/** An image and the files below it: their names, and what `info` tells about each. */
import { statSync } from 'node:fs';
import { Failure } from './failure.js';
import type { ImageArguments, Opening } from './image-arguments.js';
import { besideImage, knownDriver, protocolOf } from './image-name.js';
import type { ImageName } from './image-name.js';
import type { ImageDescription } from './print-info.js';
import { onlyPlainNames } from './references.js';
import { wholeSectors } from './sizes.js';

/** As many files as a chain may have. */
const maxDepth = 200;

/** Describes an image without opening anything it refers to. */
export async function describe(
  name: ImageName,
  images: ImageArguments,
  opening: Pick<Opening, 'lock' | 'dataFile'> = {},
): Promise<ImageDescription> {
  const { format, virtualSize, info: details } = await images.readInfo(name, opening);
  const backing = details?.backing ?? null;
  return {
    name: name.shown,
    format: name.protocol ?? format,
    virtualSize: wholeSectors(virtualSize),
    actualSize: details === null ? occupied(name) : details.actualSize,
    fullBackingName: backing === null ? null : besideImage(name.path, backing.name),
    details,
  };
}

/** Describes an image and all its backing files, from the top down. */
export async function* describeChain(
  name: ImageName,
  images: ImageArguments,
  opening: Pick<Opening, 'lock'> = {},
): AsyncGenerator<ImageDescription> {
  for await (const { image } of walkChain(name, images, opening)) yield image;
}

/** An image of a chain. */
interface Step {
  name: ImageName;
  image: ImageDescription;
}

/** The same with the name of each, as the command line or the image above has it. */
export async function* walkChain(
  name: ImageName,
  images: ImageArguments,
  opening: Pick<Opening, 'lock'> = {},
): AsyncGenerator<Step> {
  const seen = new Set<string>();
  let next: ImageName | null = name;
  while (next !== null) {
    const image: ImageDescription = await describe(next, images, opening);
    noteFile(next, seen);
    yield { name: next, image };
    next = backingName(next, image, images);
  }
}

/** The file that holds the data of each layer, from the top down. */
export async function dataFiles(name: ImageName, images: ImageArguments): Promise<string[]> {
  const files: string[] = [];
  for await (const step of walkChain(name, images)) {
    const { path, shownFile = path, backing } = step.name;
    const dataFile = step.image.details?.dataFile?.name ?? null;
    files.push(dataFile === null ? shownFile : besideImage(path, dataFile));
    if (backing === 'none') break;
  }
  return files;
}

/** The name of the file below an image, or null at the bottom. */
function backingName(
  { backing: choice }: ImageName,
  image: ImageDescription,
  images: ImageArguments,
): ImageName | null {
  const chosen = typeof choice === 'object' ? choice : null;
  if (typeof chosen?.path === 'string') return { ...chosen, path: chosen.path };
  const given = image.fullBackingName;
  const backing = image.details?.backing ?? null;
  if (given === null || backing === null) return null;
  if (images.deniesReferences) {
    throw new Failure(`Could not open '${given}': backing files are not opened with --deny-references`);
  }
  if (protocolOf(given) !== null) throw onlyPlainNames(given);
  const format = backing.format === null ? {} : { format: knownDriver(backing.format) };
  return { ...format, ...chosen, given, shown: given, path: given };
}

/** Bytes that a raw file takes up, where that can be told. */
function occupied({ path, remote }: ImageName): number | null {
  return remote === undefined ? statSync(path).blocks * 512 : null;
}

function noteFile({ path, shown, remote }: ImageName, seen: Set<string>): void {
  // Nothing leads to it but the command line.
  if (remote !== undefined) return;
  const { dev, ino } = statSync(path, { bigint: true });
  const identity = `${dev}:${ino}`;
  if (seen.has(identity)) throw new Failure(`Backing file '${shown}' creates an infinite loop.`);
  if (seen.size === maxDepth) throw new Failure(`The backing chain has more than ${maxDepth} files`);
  seen.add(identity);
}
