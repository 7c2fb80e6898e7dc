/** The options that every command about existing images has, and opening an image as they say. */
import { statSync } from 'node:fs';
import type { Disk, Qcow2 } from '../index.js';
import type { BackingChoice, ImageFormat, OpenOptions, Source } from '../options.js';
import { readInfo } from '../read-info.js';
import type { Context } from './context.js';
import { defined } from './defined.js';
import { isDirectory, openFailure, openReason } from './error-text.js';
import { Failure } from './failure.js';
import type { BackingName, ImageName } from './image-name.js';
import { ofBackingFile, parseImageName, unsupportedOption } from './image-options.js';
import { Secrets } from './objects.js';
import { warnAboutProbing } from './probing.js';
import { plainReferences } from './references.js';
import { wholeSectors } from './sizes.js';

/** Options of one opening beyond those of the command line. */
export interface Opening extends Pick<OpenOptions, 'mode' | 'forRepair' | 'lock' | 'dataFile'> {
  /** Opens the image alone, whatever the command line says. */
  backing?: 'none';
  /** The guest's data is asked for, so that an encrypted image needs its secret. */
  data?: true;
}

export class ImageArguments {
  readonly secrets = new Secrets();
  imageOpts = false;
  #format: string | undefined;
  #forceShare = false;
  #denyReferences = false;

  /** Takes an option if it is one of these. */
  take(name: string, value: string): boolean {
    switch (name) {
      case 'object':
        this.secrets.define(value);
        return true;
      case 'image-opts':
        this.imageOpts = true;
        return true;
      case 'format':
      case 'source-format':
        this.#format = value;
        return true;
      case 'force-share':
        this.#forceShare = true;
        return true;
      case 'deny-references':
        this.#denyReferences = true;
        return true;
      default:
        return false;
    }
  }

  get format(): string | undefined {
    return this.#format;
  }

  get forceShare(): boolean {
    return this.#forceShare;
  }

  get deniesReferences(): boolean {
    return this.#denyReferences;
  }

  /**
   * @param format in place of what `--format` says
   * @throws Failure
   */
  name(given: string, format = this.#format, withoutBacking = false): ImageName {
    if (this.imageOpts && format !== undefined) {
      throw new Failure('--image-opts and --format are mutually exclusive');
    }
    return parseImageName(given, { imageOpts: this.imageOpts, withoutBacking, ...defined({ format }) });
  }

  /** Of an image whose backing file is not to be opened. @throws Failure where it is said which one to open */
  nameWithoutBacking(given: string): ImageName {
    return this.name(given, this.#format, true);
  }

  /** What the library is to be told about an image. @throws Failure for a secret that was not defined */
  async openOptions(name: ImageName, opening: Opening = {}): Promise<OpenOptions> {
    const { keySecret } = name;
    return {
      ...(await this.#withoutSecret(name, opening)),
      ...(keySecret === undefined ? {} : { secret: this.secrets.get(keySecret) }),
    };
  }

  async #withoutSecret(name: ImageName, opening: Opening): Promise<OpenOptions> {
    const { mode, backing = name.backing ?? 'full', forRepair, lock, dataFile } = opening;
    checkWindow(name);
    return {
      ...defined({ mode, forRepair, lock, dataFile, window: name.window }),
      backing: typeof backing === 'object' ? await this.#chosen(backing) : backing,
      // What comes from a server does not get to name files of this machine.
      resolve:
        this.#denyReferences || name.remote !== undefined
          ? 'deny'
          : plainReferences(name.path, chosenPaths(name)),
      ...(this.#forceShare || name.locking === false ? { lock: false } : {}),
    };
  }

  async #chosen(name: BackingName): Promise<BackingChoice> {
    const { path, backing, format, keySecret, locking, window } = name;
    if (path !== null) lookAtBacking({ ...name, path });
    return {
      ...defined({ format, window }),
      ...(path === null ? {} : { source: await sourceOf({ ...name, path }, {}) }),
      backing: typeof backing === 'object' ? await this.#chosen(backing) : (backing ?? 'full'),
      ...(this.#forceShare || locking === false ? { lock: false } : {}),
      ...(keySecret === undefined ? {} : { secret: this.secrets.get(keySecret) }),
    };
  }

  /** Opens an image of either format. @throws Failure in the words of qemu-img */
  openDisk(name: ImageName, opening: Opening = {}): Promise<{ disk: Disk; format: ImageFormat }> {
    return reporting(name, opening, async () => {
      // Telling about an image needs none of it.
      const { openDisk, Qcow2 } = await import('../qcow2.js');
      const options = await this.openOptions(name, opening);
      const { format = await formatOfWhole(name, options) } = name;
      const opened = await openDisk(await sourceOf(name, opening), { ...options, ...defined({ format }) });
      if (opening.data === true && opened.disk instanceof Qcow2) await demandKey(opened.disk, name);
      return opened;
    });
  }

  /** @throws Failure for an image that was said to be read-only */
  demandWritable({ given, readOnly }: ImageName): void {
    if (readOnly === true) throw new Failure(`Could not open '${given}': Block node is read-only`);
  }

  /** Opens an image of either format to be changed. @throws Failure in the words of qemu-img */
  async openForWriting(
    name: ImageName,
    context: Context,
    opening: Opening = { data: true },
  ): Promise<{ disk: Disk; format: ImageFormat }> {
    this.demandWritable(name);
    if (this.#forceShare) {
      throw new Failure(
        `Could not open '${name.given}': force-share=on can only be used with read-only images`,
      );
    }
    const opened = await this.openDisk(name, { ...opening, mode: 'r+' });
    if (opened.format === 'raw' && name.format === undefined) warnAboutProbing(name.path, context);
    return opened;
  }

  /** Opens an image that must be qcow2. @throws Failure in the words of qemu-img */
  openQcow2(name: ImageName, opening: Opening = {}): Promise<Qcow2> {
    return reporting(name, opening, async () => {
      const { open } = await import('../qcow2.js');
      return open(await sourceOf(name, opening), await this.openOptions(name, opening));
    });
  }

  /** Tells about an image of either format. @throws Failure in the words of qemu-img */
  readInfo(name: ImageName, opening: Pick<Opening, 'lock' | 'dataFile'>): ReturnType<typeof readInfo> {
    return reporting(name, opening, async () => {
      // Nothing of the guest's is looked at, so that no secret is needed, though one be named.
      const options = await this.#withoutSecret(name, { ...opening, backing: 'none' });
      const { format = await formatOfWhole(name, options) } = name;
      return readInfo(await sourceOf(name, opening), { ...options, ...defined({ format }) });
    });
  }
}

/** Refuses an encrypted image that came without its secret. */
async function demandKey(disk: Qcow2, { keySecret }: ImageName): Promise<void> {
  if (disk.header.cryptMethod === 'none' || keySecret !== undefined) return;
  await disk.close();
  throw new Failure("Parameter 'encrypt.key-secret' is required for cipher");
}

function chosenPaths({ backing }: Pick<ImageName, 'backing'>): string[] {
  if (typeof backing !== 'object') return [];
  return [...(backing.path === null ? [] : [backing.path]), ...chosenPaths(backing)];
}

/** @throws Failure for a backing file that is not there */
function lookAtBacking(name: ImageName): void {
  try {
    checkWindow(name);
    if (name.remote === undefined) statSync(name.path);
    if (name.path === '' || isDirectory(name.path)) throw new Failure('');
  } catch (error) {
    if (error instanceof Failure && error.message !== '') throw ofBackingFile(error);
    throw ofBackingFile(new Failure(openReason(error, { name: name.path }).text, { cause: error }));
  }
}

/** @throws Failure for a part of a file that is not within it */
function checkWindow({ path, remote, window }: ImageName): void {
  const there = remote === undefined ? statSync(path, { throwIfNoEntry: false, bigint: true }) : undefined;
  if (window === undefined || there?.isFile() !== true) return;
  const offset = BigInt(window.offset ?? 0);
  const size = BigInt(wholeSectors(Number(there.size)));
  if (offset > size) {
    throw new Failure(`Offset (${offset}) cannot be greater than size of the containing file (${size})`);
  }
  if (offset + BigInt(window.size ?? 0) <= size) return;
  throw new Failure(
    `The sum of offset (${offset}) and size (${window.size ?? 0}) has to be smaller or equal to the  actual size of ` +
      `the containing file (${size})`,
  );
}

/** Only a raw disk can be a part of what the options name; undefined where all of that is to be looked at. */
async function formatOfWhole(name: ImageName, { resolve }: OpenOptions): Promise<ImageFormat | undefined> {
  if (name.window === undefined || name.shownFile !== undefined) return undefined;
  const { format } = await readInfo(await sourceOf(name, {}), { ...defined({ resolve }), lock: false });
  if (format === 'raw') return format;
  throw unsupportedOption(format, name.window.offset === undefined ? 'size' : 'offset');
}

async function sourceOf({ path, remote }: ImageName, { mode }: Opening): Promise<Source> {
  if (remote === undefined) return path;
  const { openRemote } = await import('./remote-image.js');
  return openRemote(remote, mode);
}

async function reporting<T>(name: ImageName, opening: Opening, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw openFailure(error, {
      name: name.given,
      path: name.path,
      writing: opening.mode === 'r+',
      hasSecret: name.keySecret !== undefined,
    });
  }
}
