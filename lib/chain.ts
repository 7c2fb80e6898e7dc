/** openChain(): images as one disk in an order the caller states. */
import type { Disk } from './disk.js';
import { invalidArgValue, Qcow2Error } from './errors.js';
import { quote } from './format/text.js';
import { openLayer } from './open.js';
import type { ImageFormat, OpenOptions, Source } from './options.js';
import { chain, Qcow2 } from './qcow2.js';

/** One image of a chain. */
export interface ChainLayer extends Pick<OpenOptions, 'dataFile' | 'secret'> {
  /** Where the image is. */
  source: Source;
  /** Without it the first bytes tell. */
  format?: ImageFormat;
  /** An internal snapshot of the image, by id or name, to stand in its place. */
  snapshot?: string;
}

/**
 * Opens images as one disk, read-only, each on the one before it, whatever backing files they name themselves. Converting
 * it gives one image with the content of all.
 * Where a layer is longer than the one below it, zeros show through; where it is shorter, it hides what is past its end.
 * Nothing that failed to open leaves anything open.
 * @param layers the base first, the image whose size and content the disk has last
 * @throws as `open`; TypeError without layers; Qcow2Error `ERR_QCOW2_CONFLICT` for a raw image on another one or with a
 * snapshot, `ERR_QCOW2_NOT_FOUND` for a snapshot that is not there
 */
export async function openChain(
  layers: readonly (Source | ChainLayer)[],
  options: Pick<OpenOptions, 'resolve' | 'cacheBytes' | 'lock' | 'secret'> = {},
): Promise<Disk> {
  let disk: Disk | null = null;
  for (const layer of layers) {
    const { source, format, snapshot, ...own }: ChainLayer = isChainLayer(layer) ? layer : { source: layer };
    try {
      disk = await openLayer(source, format, { ...options, ...own }, chain, disk);
      if (snapshot !== undefined) disk = await snapshotOf(disk, snapshot);
    } catch (error) {
      await disk?.close();
      throw error;
    }
  }
  if (disk === null) throw invalidArgValue('layers', 'must have at least one image', layers);
  return disk;
}

/** A snapshot of a disk, which closes that with it. */
function snapshotOf(disk: Disk, idOrName: string): Promise<Disk> {
  if (disk instanceof Qcow2) return disk.snapshots.openFor(idOrName, () => disk.close());
  throw new Qcow2Error('ERR_QCOW2_CONFLICT', `A raw image has no snapshot ${quote(idOrName)}`, {
    feature: 'snapshots',
  });
}

function isChainLayer(layer: Source | ChainLayer): layer is ChainLayer {
  return typeof layer === 'object' && 'source' in layer;
}
