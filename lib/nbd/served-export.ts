/** A disk under a name, as a server offers it: what clients may do with it and what they can ask about it. */
import type { Disk, WritableDisk } from '../disk.js';
import { invalidArgType, invalidArgValue, Qcow2Error } from '../errors.js';
import { hasFeature } from '../format/features.js';
import { Qcow2 } from '../index.js';
import { allocationRuns, bitmapRuns, depthRuns, type StatusSource } from './block-status.js';
import {
  allocationContext,
  bitmapContextPrefix,
  depthContext,
  maxStringBytes,
  TransmissionFlag,
} from './protocol.js';
import { quote } from '../format/text.js';

/** A disk to be served, and how. */
export interface NbdExport {
  /** What clients ask for, up to 4096 bytes; the empty name by default. */
  name?: string;
  /** For people who list the exports. */
  description?: string;
  /** What is served; it stays open when the server closes. */
  disk: Disk;
  /** True by default. False needs a disk that is open for writing. */
  readOnly?: boolean;
  /** Persistent bitmaps of the disk, a qcow2 image, that clients may see as `qemu:dirty-bitmap:NAME`. */
  bitmaps?: readonly string[];
}

/** A disk that can be written to, and maybe discards. */
export type ServedDisk = WritableDisk & Pick<Partial<Qcow2>, 'discard'>;

export class ServedExport {
  readonly name: string;
  readonly description: string;
  readonly disk: Disk;
  /** The same disk where clients may change it. */
  readonly writable: ServedDisk | null;
  /** Whether making zeros is always quicker than writing them. */
  readonly hasFastZeroes: boolean;
  /** Names of contexts, and where their status comes from. */
  readonly contexts: ReadonlyMap<string, StatusSource>;

  private constructor({ name = '', description = '', disk, readOnly = true, bitmaps = [] }: NbdExport) {
    checkText('name', name);
    checkText('description', description);
    this.name = name;
    this.description = description;
    this.disk = disk;
    this.writable = readOnly ? null : writableDisk(disk);
    this.hasFastZeroes =
      disk instanceof Qcow2 && disk.header.version >= 3 && !hasFeature(disk.header, 'externalData');
    this.contexts = new Map([
      [allocationContext, allocationRuns(disk)],
      [depthContext, depthRuns(disk)],
      ...bitmaps.map((bitmap) => [bitmapContextPrefix + bitmap, bitmapRuns(qcow2Of(disk), bitmap)] as const),
    ]);
  }

  /**
   * @throws TypeError; Qcow2Error `ERR_QCOW2_NOT_FOUND` or `ERR_QCOW2_CONFLICT` for a bitmap that is not there or not to be
   * relied on, `ERR_QCOW2_READ_ONLY` for a disk that cannot be written to
   */
  static async prepare(given: NbdExport): Promise<ServedExport> {
    const served = new ServedExport(given);
    const { disk, bitmaps = [] } = given;
    if (bitmaps.length > 0) await refuseUnusable(qcow2Of(disk), bitmaps);
    return served;
  }

  /** Bytes. */
  get size(): number {
    return this.disk.size;
  }

  /** What clients should ask in units of, bytes. */
  get preferredBlock(): number {
    return this.disk instanceof Qcow2 ? Math.max(4096, this.disk.header.geometry.clusterSize) : 4096;
  }

  /** Fills `buffer` if that can be done without waiting. What fails is left to fail in a read that waits. */
  readNow(buffer: Buffer, position: number): boolean {
    const { disk } = this;
    if (disk.readNow === undefined) return false;
    try {
      return disk.readNow(buffer, position);
    } catch {
      return false;
    }
  }

  transmissionFlags(isStructured: boolean): number {
    const flags = TransmissionFlag;
    return (
      flags.hasFlags |
      flags.canMultiConn |
      flags.sendCache |
      (isStructured ? flags.sendDf : 0) |
      (this.writable === null
        ? flags.readOnly
        : flags.sendFlush | flags.sendFua | flags.sendTrim | flags.sendWriteZeroes) |
      (this.writable !== null && this.hasFastZeroes ? flags.sendFastZero : 0)
    );
  }
}

function writableDisk(disk: Disk): ServedDisk {
  const writable = disk as Partial<ServedDisk>;
  if (writable.write === undefined || writable.writable === false) {
    throw new Qcow2Error(
      'ERR_QCOW2_READ_ONLY',
      "A disk that clients may write to must be open for writing (mode 'r+')",
    );
  }
  return disk as ServedDisk;
}

function qcow2Of(disk: Disk): Qcow2 {
  if (disk instanceof Qcow2) return disk;
  throw invalidArgType('bitmaps', 'left out for a disk that is no qcow2 image', disk);
}

async function refuseUnusable(disk: Qcow2, names: readonly string[]): Promise<void> {
  const list = await disk.bitmaps.list();
  for (const name of names) {
    const found = list.find((bitmap) => bitmap.name === name);
    if (found === undefined) {
      throw new Qcow2Error('ERR_QCOW2_NOT_FOUND', `There is no bitmap ${quote(name)} to serve`, {
        feature: 'bitmaps',
      });
    }
    if (found.problem !== null) {
      throw new Qcow2Error(
        'ERR_QCOW2_CONFLICT',
        `The bitmap ${quote(name)} cannot be served: it ${found.problem}`,
        { feature: 'bitmaps' },
      );
    }
  }
}

function checkText(option: string, text: string): void {
  if (typeof text !== 'string') throw invalidArgType(option, 'of type string', text);
  if (Buffer.byteLength(text) > maxStringBytes || text.includes('\0')) {
    throw invalidArgValue(option, `must have up to ${maxStringBytes} bytes and no NUL`, text);
  }
}
