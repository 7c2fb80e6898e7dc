/** The options that every command about existing images has, and opening an image as they say. */
import { open, openDisk } from '../index.js';
import type { Disk, Qcow2 } from '../index.js';
import type { ImageFormat, OpenOptions } from '../options.js';
import { openFailure } from './error-text.js';
import { parseImageName } from './image-name.js';
import type { ImageName } from './image-name.js';
import { Secrets } from './objects.js';
import { plainReferences } from './references.js';

/** Options of one opening beyond those of the command line. */
export type Opening = Pick<OpenOptions, 'mode' | 'backing' | 'forRepair' | 'lock'>;

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

  /** @throws Failure */
  name(given: string): ImageName {
    return parseImageName(given, {
      imageOpts: this.imageOpts,
      ...(this.#format === undefined ? {} : { format: this.#format }),
    });
  }

  /** What the library is to be told about an image. @throws Failure for a secret that was not defined */
  openOptions(name: ImageName, opening: Opening = {}): OpenOptions {
    return {
      ...opening,
      resolve: this.#denyReferences ? 'deny' : plainReferences(name.path),
      ...(this.#forceShare || name.locking === false ? { lock: false } : {}),
      ...(name.keySecret === undefined ? {} : { secret: this.secrets.get(name.keySecret) }),
    };
  }

  /** Opens an image of either format. @throws Failure in the words of qemu-img */
  openDisk(name: ImageName, opening: Opening = {}): Promise<{ disk: Disk; format: ImageFormat }> {
    return reporting(name, opening, () =>
      openDisk(name.path, {
        ...this.openOptions(name, opening),
        ...(name.format === undefined ? {} : { format: name.format }),
      }),
    );
  }

  /** Opens an image that must be qcow2. @throws Failure in the words of qemu-img */
  openQcow2(name: ImageName, opening: Opening = {}): Promise<Qcow2> {
    return reporting(name, opening, () => open(name.path, this.openOptions(name, opening)));
  }
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
