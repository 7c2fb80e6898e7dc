/** create(): makes a new image and opens it. */
import { dirname, resolve as resolvePath } from 'node:path';
import { Qcow2Error } from './errors.js';
import { toBytes } from './format/units.js';
import { readHeader } from './metadata/header-io.js';
import { Image } from './metadata/image.js';
import { defaultCacheBytes, lockedData, makeGuest, openImage } from './open.js';
import {
  planLayout,
  refuseUnfitting,
  writeEmptyImage,
  writeEncryption,
  writeFinalHeader,
  type Layout,
} from './operations/create.js';
import { resizeGuest } from './operations/resize.js';
import type { CreateOptions, ResolvePolicy, Source } from './options.js';
import { chain, Qcow2 } from './qcow2.js';
import { closeAll } from './storage/closable.js';
import { identityOf, openSource, pathOf, type OpenedSource } from './storage/open-source.js';
import { resolveReference } from './storage/resolve.js';
import type { Storage } from './storage/storage.js';

/**
 * Makes a new image of `size` bytes in place of whatever the target holds, and opens it for writing. QEMU sees whole sectors of
 * 512 bytes of it.
 * @throws TypeError, RangeError, Qcow2Error `ERR_QCOW2_CONFLICT` for options; `ERR_QCOW2_LIMIT` when the disk is too large
 * for its cluster size; `ERR_QCOW2_REFERENCE` when the backing file cannot be opened
 */
export async function create(
  target: Source,
  size: number | bigint,
  options: CreateOptions = {},
): Promise<Qcow2> {
  const layout = planLayout(options);
  const bytes = toBytes('size', size);
  refuseUnfitting(layout, bytes);
  const owned: { close: () => Promise<void> }[] = [];
  const { lock = true, cacheBytes = defaultCacheBytes, backing, dataFile } = options;
  await refuseUnusableReferences(target, options);
  try {
    const image = await openSource(target, { mode: 'create', lock });
    if (image.owned) owned.push(image.storage);
    const data = dataFile === undefined ? null : await createDataFile(dataFile, image.storage.path, lock);
    if (data?.owned === true) owned.push(data.storage);
    await writeNewImage(image.storage, data?.storage ?? null, layout, bytes, cacheBytes);
    const opened = await openImage(
      image.storage,
      {
        mode: 'r+',
        cacheBytes,
        lock,
        resolve: ownReferences(image.storage.path, options),
        backing: backing?.unchecked === true ? 'none' : 'full',
        ...(data === null ? {} : { dataFile: data.storage }),
        ...(options.encryption === undefined ? {} : { secret: options.encryption.secret }),
      },
      chain,
    );
    return new Qcow2({ ...opened, owned: [...owned, ...opened.owned] });
  } catch (error) {
    await closeAll(owned);
    throw error;
  }
}

async function writeNewImage(
  storage: Storage,
  dataStorage: Storage | null,
  layout: Layout,
  size: number,
  cacheBytes: number,
): Promise<void> {
  await writeEmptyImage(storage, layout);
  const header = await readHeader(storage, false);
  const image = await Image.open(storage, dataStorage, header, {
    writable: true,
    forRepair: false,
    cacheBytes,
  });
  const encryption = await writeEncryption(image, layout);
  const cipher = encryption === null ? null : lockedData('host');
  const showsBelow = layout.options.backing !== undefined;
  await resizeGuest(makeGuest(image, null, cipher), size, {
    preallocation: layout.preallocation,
    showsBelow,
  });
  if (dataStorage !== null && (await dataStorage.size()) < size) await dataStorage.truncate(size);
  await writeFinalHeader(image, layout, encryption);
}

/** Refuses what the new image cannot stand on before the target is emptied. */
async function refuseUnusableReferences(target: Source, { backing, dataFile }: CreateOptions): Promise<void> {
  const path = pathOf(target);
  const sources: Source[] = dataFile === undefined ? [] : [dataFileSource(dataFile, path)];
  if (backing !== undefined && backing.unchecked !== true) {
    const reference = { kind: 'backing', format: null, from: path ?? null, ...backing } as const;
    sources.push(await resolveReference(reference, 'any'));
  }
  const identity = await identityOf(target);
  if (identity === undefined) return;
  for (const source of sources) {
    if ((await identityOf(source)) !== identity) continue;
    throw new Qcow2Error('ERR_QCOW2_REFERENCE', 'An image cannot be its own backing file or data file', {
      feature: 'options',
    });
  }
}

function createDataFile(
  dataFile: NonNullable<CreateOptions['dataFile']>,
  imagePath: string | undefined,
  lock: boolean,
): Promise<OpenedSource> {
  return openSource(dataFileSource(dataFile, imagePath), { mode: 'create', lock });
}

function dataFileSource(
  { name, source }: NonNullable<CreateOptions['dataFile']>,
  imagePath: string | undefined,
): Source {
  const base = imagePath === undefined ? process.cwd() : dirname(imagePath);
  return source ?? resolvePath(base, name);
}

/** What the caller names for a new image may be opened; what those files name is up to the caller's policy. */
function ownReferences(path: string | undefined, { resolve = 'deny' }: CreateOptions): ResolvePolicy {
  return (reference) => resolveReference(reference, reference.from === (path ?? null) ? 'any' : resolve);
}
