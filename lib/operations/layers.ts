/** The files behind a disk, layer by layer. */
import type { Disk } from '../disk.js';
import { Qcow2Error } from '../errors.js';
import { DerivedDisk } from '../io/derived-disk.js';
import type { GuestImage } from '../io/guest-image.js';
import { RawDisk } from '../io/raw-disk.js';
import { Qcow2 } from '../qcow2.js';
import type { Storage } from '../storage/storage.js';

export interface Layer {
  readonly disk: Disk;
  /** Where the guest data of this layer is. */
  readonly dataStorage: Storage;
  /** The image; null for a raw layer. */
  readonly guest: GuestImage | null;
  /** Virtual size, bytes. */
  readonly size: number;
  /** Of all its files, as {@link Storage.identity} has them. */
  readonly identities: readonly string[];
}

/** The layers of a disk from the top down, as far as they are this package's own disks. */
export function layersOf(disk: object): Layer[] {
  const layers: Layer[] = [];
  let at: object | null = disk;
  while (at !== null) {
    if (at instanceof RawDisk) {
      layers.push({
        disk: at,
        dataStorage: at.storage,
        guest: null,
        size: at.size,
        identities: identitiesOf(at.storage),
      });
      return layers;
    }
    if (!(at instanceof Qcow2)) return layers;
    const { guest }: Qcow2 = at;
    const { storage, dataStorage } = guest.image;
    layers.push({
      disk: at,
      dataStorage,
      guest,
      size: at.size,
      identities: identitiesOf(storage, dataStorage),
    });
    at = guest.backing;
  }
  return layers;
}

/** Bytes; 0 for a disk without clusters. */
export function largestCluster(disk: object): number {
  return Math.max(0, ...layersOf(disk).map(({ guest }) => guest?.image.geometry.clusterSize ?? 0));
}

/**
 * All files behind a disk.
 * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` for a disk that is not this package's own
 */
export function filesBehind(disk: Disk): Storage[] {
  if (disk instanceof DerivedDisk) return disk.parts.flatMap(filesBehind);
  const files: Storage[] = [];
  for (let at: Disk | null = disk; at !== null;) {
    if (at instanceof RawDisk) return [...files, at.storage];
    if (!(at instanceof Qcow2)) {
      throw new Qcow2Error(
        'ERR_QCOW2_UNSUPPORTED',
        'It cannot be told whether this disk has changed since a checkpoint',
        {
          feature: 'checkpoint',
        },
      );
    }
    const { guest }: Qcow2 = at;
    files.push(...new Set([guest.image.storage, guest.image.dataStorage]));
    at = guest.backing;
  }
  return files;
}

/** What the files behind a disk are ({@link Storage.identity}), whatever it is made of. */
export function identitiesBehind(disk: Disk): string[] {
  if (disk instanceof DerivedDisk) return disk.parts.flatMap(identitiesBehind);
  return layersOf(disk).flatMap(({ identities }) => identities);
}

function identitiesOf(...storages: Storage[]): string[] {
  return storages.flatMap(({ identity }) => (identity === undefined ? [] : [identity]));
}
