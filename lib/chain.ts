/** openChain(): images as one disk in an order the caller states. */
import type { Disk } from './disk.js';
import { invalidArgValue } from './errors.js';
import { openLayer } from './open.js';
import type { ImageFormat, OpenOptions, Source } from './options.js';
import { chain } from './qcow2.js';

/** One image of a chain. */
export interface ChainLayer extends Pick<OpenOptions, 'dataFile' | 'secret'> {
  source: Source;
  /** Without it the first bytes tell. */
  format?: ImageFormat;
}

/**
 * Opens images as one disk, read-only, each on the one before it, whatever backing files they name themselves. Converting
 * it gives one image with the content of all.
 * @param layers the base first, the image whose size and content the disk has last
 * @throws as `open`; TypeError without layers; Qcow2Error `ERR_QCOW2_CONFLICT` for a raw image on another one
 */
export async function openChain(
  layers: readonly (Source | ChainLayer)[],
  options: Pick<OpenOptions, 'resolve' | 'cacheBytes' | 'lock' | 'secret'> = {},
): Promise<Disk> {
  let disk: Disk | null = null;
  for (const layer of layers) {
    const { source, format, ...own } = isChainLayer(layer) ? layer : { source: layer };
    try {
      disk = await openLayer(source, format, { ...options, ...own }, chain, disk);
    } catch (error) {
      await disk?.close();
      throw error;
    }
  }
  if (disk === null) throw invalidArgValue('layers', 'must have at least one image', layers);
  return disk;
}

function isChainLayer(layer: Source | ChainLayer): layer is ChainLayer {
  return typeof layer === 'object' && 'source' in layer;
}
