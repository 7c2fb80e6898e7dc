/** `convert`: copies a disk into a new image. */
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { checkCacheMode } from '../cache-mode.js';
import { parseConvert, refuseContradictions, targetFormat } from '../convert-request.js';
import type { ConvertRequest } from '../convert-request.js';
import { copyBitmaps, refuseBitmaps } from '../copy-bitmaps.js';
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import { createOptionsHelp, qcow2CreateOptions, rawPreallocation } from '../create-options.js';
import {
  creationWords,
  failure,
  isDirectory,
  openFailure,
  reasonOf,
  systemErrorPath,
  systemErrorText,
  systemErrorWords,
} from '../error-text.js';
import { Failure, isTold } from '../failure.js';
import { localPath, remoteUrl } from '../image-name.js';
import { parseImageName } from '../image-options.js';
import type { ImageName } from '../image-name.js';
import { convert, ConcatenatedDisk, fromQcow2Stream, Qcow2, SalvagedDisk } from '../../index.js';
import type { Disk, Storage } from '../../index.js';
import type { CompressionType } from '../../format/header-fields.js';
import { interruptible } from '../interrupt.js';
import type { OptionValues } from '../o-options.js';
import type { CreateOptions, ImageFormat, OpenOptions, Source } from '../../options.js';
import { withProgress } from '../progress.js';
import type { ProgressDisplay } from '../progress.js';
import { plainReferences } from '../references.js';
import { openSnapshot } from '../snapshot-choice.js';
import { standardInput, standardStream, writeToStandardOutput } from '../standard-streams.js';
import { writingTo } from '../unfinished.js';

const sectorSize = 512;
const highestLevel: Record<CompressionType, number> = { zlib: 12, zstd: 22 };

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parseConvert(words);
  if (request.newImage.asksForHelp) {
    context.out.write(createOptionsHelp(targetFormat(request), request.files.length > 0));
    return 0;
  }
  refuseContradictions(request);
  const sources = request.files.slice(0, -1).map((file) => request.images.name(file));
  const target = request.files.at(-1) ?? '';
  checkCacheMode('source cache', request.sourceCache);
  await withProgress(request, context, (progress) =>
    convertImages(sources, target, { request, progress, context }),
  );
  return 0;
}

interface Task {
  request: ConvertRequest;
  progress: ProgressDisplay | null;
  context: Context;
}

async function convertImages(sources: readonly ImageName[], target: string, task: Task): Promise<void> {
  const opened: Disk[] = [];
  try {
    task.progress?.begin();
    if (sources[0]?.given === standardStream) {
      await restoreImage(sources[0], await targetOf(target, task.request), task);
      return;
    }
    for (const source of sources) {
      const { disk } = await task.request.images.openDisk(source, { data: true });
      opened.push(disk);
    }
    const [first] = opened;
    const [name] = sources;
    if (first === undefined || name === undefined) return;
    await convertDisk(
      await sourceDisk(opened, first, task),
      first,
      name,
      await targetOf(target, task.request),
      task,
    );
  } finally {
    for (const disk of opened) await disk.close();
  }
}

/**
 * What is to be copied: a snapshot, several disks behind one another, or what can be read of it. QEMU counts an image in whole
 * sectors, so that its guests would miss the end of a new one with a part of a sector.
 */
async function sourceDisk(opened: readonly Disk[], first: Disk, { request, context }: Task): Promise<Disk> {
  const { snapshot, salvage, create } = request;
  const shown = snapshot === null ? first : await openSnapshot(first, snapshot);
  const isWhole = opened.length === 1 && (shown.size % sectorSize === 0 || !create);
  const disk = isWhole ? shown : new ConcatenatedDisk(opened.length > 1 ? opened : [shown], sectorSize);
  if (!salvage) return disk;
  return new SalvagedDisk(disk, ({ start }, error) => {
    context.complain(`warning: error while reading offset ${start}: ${systemErrorText(error)}`);
  });
}

interface Target {
  given: string;
  path: string;
  /** For a target on a server, where; `path` is the same as text then. */
  remote: URL | null;
  format: ImageFormat;
  /** What options say of a target that is there. */
  name: ImageName | null;
}

async function targetOf(given: string, request: ConvertRequest): Promise<Target> {
  if (!request.targetImageOpts) {
    const remote = remoteUrl(given);
    const path = remote === null ? localPath(given) : given;
    return { given, path, remote, format: targetFormat(request), name: null };
  }
  if (request.targetFormat !== null) {
    throw new Failure('--image-opts and --format are mutually exclusive');
  }
  const name = parseImageName(given, { imageOpts: true });
  const { path, remote = null } = name;
  if (name.format !== undefined) return { given, path, remote, format: name.format, name };
  const { disk, format } = await request.images.openDisk(name, { backing: 'none' });
  await disk.close();
  return { given, path, remote, format, name };
}

async function convertDisk(
  disk: Disk,
  source: Disk,
  name: ImageName,
  target: Target,
  { request, progress, context }: Task,
): Promise<void> {
  const { path, format } = target;
  const create = targetOptions(format, path, request);
  checkCacheMode('cache', request.targetCache);
  if (target.given === standardStream) {
    const { compress, compressionLevel, sparseSize } = request;
    const stream = { format, create, compress, compressionLevel, scanZeros: sparseSize !== 0 };
    await interruptible((signal) => writeToStandardOutput(disk, { ...stream, signal }));
    return;
  }
  if (request.bitmaps) refuseBitmaps(source, format, create);
  if (request.bitmaps && target.remote !== null) throw new Failure('Bitmaps cannot be copied to a server');
  const work = async (to: Source, signal: AbortSignal): Promise<void> => {
    try {
      const { name: kept } = target;
      const openTarget = kept === null ? {} : await request.images.openOptions(kept);
      await copy(disk, to, { request, progress, signal, create, format, openTarget });
      if (request.bitmaps && source instanceof Qcow2) {
        await copyBitmaps(source, path, { ...request, complain: context.complain });
      }
    } catch (error) {
      throw conversionFailure(error, name, target, request);
    }
  };
  await writing(target, { request, context }, work);
}

/** Opens a target on a server, or takes care that a half-written file is not mistaken for a good one. */
async function writing(
  { given, path, remote }: Target,
  { request, context }: Pick<Task, 'request' | 'context'>,
  work: (to: Source, signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  await interruptible(async (signal) => {
    if (remote === null) {
      await (request.create
        ? writingTo(path, context.complain, () => work(path, signal))
        : work(path, signal));
      return;
    }
    const server = await openTarget(remote, given, request);
    try {
      await work(server, signal);
    } catch (error) {
      // What does not go together is found before anything is written.
      const isUntouched = error instanceof Failure && hasCode(error.cause, 'ERR_QCOW2_CONFLICT');
      if (!isUntouched) context.complain(`'${given}' is incomplete`);
      throw error;
    } finally {
      await server.close();
    }
  });
}

async function openTarget(url: URL, given: string, request: ConvertRequest): Promise<Storage> {
  if (!url.protocol.startsWith('nbd')) {
    throw new Failure(`Could not open '${given}': ${url.protocol} servers are read-only here`);
  }
  const { openExport, openNbdStorage } = await import('../remote-image.js');
  try {
    return await (request.create ? openExport(url) : openNbdStorage(url, 'r+'));
  } catch (error) {
    const concerned = { name: given, writing: true };
    if (!request.create) throw openFailure(error, concerned);
    throw failure(
      `${given}: error while converting ${targetFormat(request)}: `,
      reasonOf(error, concerned),
      error,
    );
  }
}

/** Makes the target from a qcow2 image that comes through standard input. */
async function restoreImage(
  source: ImageName,
  target: Target,
  { request, progress, context }: Task,
): Promise<void> {
  if (source.format === 'raw') throw new Failure('Only a qcow2 image can be read from standard input');
  const { path, format } = target;
  const create = targetOptions(format, path, request);
  checkCacheMode('cache', request.targetCache);
  const { secret } = await request.images.openOptions(source);
  const work = (to: Source, signal: AbortSignal): Promise<unknown> =>
    fromQcow2Stream(standardInput(signal), to, {
      targetFormat: format,
      create,
      compress: request.compress,
      keepTarget: !request.create,
      durable: request.targetCache !== 'unsafe',
      signal,
      ...spoolBeside(target),
      ...(secret === undefined ? {} : { secret }),
      ...(request.compressionLevel === null ? {} : { compressionLevel: request.compressionLevel }),
      ...(request.sparseSize === null ? {} : { sparseSize: request.sparseSize }),
      ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
    }).catch((error: unknown) => {
      throw conversionFailure(error, source, target, request);
    });
  await writing(target, { request, context }, work);
}

/** Where the target goes is more room for what has to be put aside than where temporary files go, which may be memory. */
function spoolBeside({ path, remote }: Target): { spoolDirectory?: string } {
  if (remote !== null || statSync(path, { throwIfNoEntry: false })?.isFile() === false) return {};
  const directory = dirname(path);
  try {
    accessSync(directory, constants.W_OK);
    return { spoolDirectory: directory };
  } catch {
    return {};
  }
}

interface Copy extends Omit<Task, 'context'> {
  signal: AbortSignal;
  create: CreateOptions;
  format: ImageFormat;
  openTarget: OpenOptions;
}

function copy(
  disk: Disk,
  target: Source,
  { request, progress, signal, create, format, openTarget }: Copy,
): Promise<unknown> {
  return convert(disk, target, {
    targetFormat: format,
    create,
    openTarget,
    compress: request.compress,
    keepTarget: !request.create,
    targetIsZero: request.targetIsZero,
    // As for qemu-img, whose default is to leave it to the system when the target reaches the disk.
    durable: request.targetCache !== 'unsafe',
    signal,
    ...(request.compressionLevel === null ? {} : { compressionLevel: request.compressionLevel }),
    ...(request.rateLimit === 0 ? {} : { bytesPerSecond: request.rateLimit }),
    ...(request.sparseSize === null ? {} : { sparseSize: request.sparseSize }),
    ...(request.concurrency === null ? {} : { concurrency: request.concurrency }),
    ...(progress === null ? {} : { onProgress: (state) => progress.update(state) }),
  });
}

/** What the target is to be like. @throws Failure in the words of qemu-img */
function targetOptions(format: ImageFormat, path: string, request: ConvertRequest): CreateOptions {
  const { newImage, create, compress, bitmaps } = request;
  const values = create ? newImage.values(format) : newImage.listed(format);
  if (create && values.has('backing_file') && !values.has('backing_fmt')) {
    throw new Failure('Use of backing file requires explicit backing format');
  }
  // Of a target that is to be there already, it is told first that it is not, or that it cannot have bitmaps.
  if (compress && (create || (!bitmaps && existsSync(path)))) refuseToCompress(format, values);
  const created = `${path}: error while converting ${format}: `;
  try {
    if (format === 'raw') return { preallocation: rawPreallocation(values) };
    const options = qcow2CreateOptions(values, request.images.secrets);
    refuseLevel(request.compressionLevel, options.compressionType ?? 'zlib');
    return { ...options, resolve: plainReferences(path) };
  } catch (error) {
    throw failure(created, reasonOf(error, { name: path }), error);
  }
}

function refuseLevel(level: number | null, type: CompressionType): void {
  const most = highestLevel[type];
  if (level === null || level <= most) return;
  throw new Failure(`Invalid compression level '${level}': ${type} has levels from 1 to ${most}`);
}

function refuseToCompress(format: ImageFormat, values: OptionValues): void {
  if (format === 'raw') throw new Failure('Compression not supported for this file format');
  if (values.has('encrypt.format') || values.switch('encryption') === true) {
    throw new Failure('Compression and encryption not supported at the same time');
  }
  if ((values.text('preallocation') ?? 'off') !== 'off') {
    throw new Failure('Compression and preallocation not supported at the same time');
  }
}

/** Tells at which end of the copy something went wrong, as far as the error says so. */
function conversionFailure(
  error: unknown,
  source: ImageName,
  { given: target, path, format }: Target,
  request: ConvertRequest,
): unknown {
  if (isTold(error)) return error;
  if (hasCode(error, 'ERR_QCOW2_CONFLICT') && error.feature === 'size') {
    return new Failure('output file is smaller than input file', { cause: error });
  }
  const isCreation = isOpening(error) || path === '' || isDirectory(path);
  const words = isCreation ? creationWords(error, path) : systemErrorWords(error);
  if (words !== null && !isCreation) {
    const errorPath = systemErrorPath(error);
    const reading = errorPath !== null && resolve(errorPath) === resolve(source.path);
    return failure(`error while ${reading ? 'reading' : 'writing'}: `, { text: words }, error);
  }
  const concerned = { name: target, path, writing: true };
  if (!request.create) return openFailure(error, concerned);
  const reason =
    words === null ? reasonOf(error, concerned) : { text: `Could not create '${path}': ${words}` };
  return failure(`${target}: error while converting ${format}: `, reason, error);
}

function isOpening(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error && error.syscall === 'open';
}
