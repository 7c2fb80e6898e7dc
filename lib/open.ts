/** Opening an image and all that it stands on: data file, secret, backing chain. */
import { openDataFile, refuseAgain, refuseIdentity } from './data-file.js';
import type { Disk } from './disk.js';
import { Qcow2Error } from './errors.js';
import { hasFeature } from './format/features.js';
import type { Header } from './format/header.js';
import { quote } from './format/text.js';
import { CompressedSpace } from './io/compressed-space.js';
import { DecodedClusters } from './io/decoded-clusters.js';
import { cryptSectorSize, type SectorCipher } from './io/encryption/crypt-sector.js';
import { readLuksArea } from './io/encryption/luks-area.js';
import { requireSecret } from './io/encryption/secret.js';
import type { DataCipher, GuestImage } from './io/guest-image.js';
import { RangeLock } from './io/range-lock.js';
import { RawDisk } from './io/raw-disk.js';
import { log } from './log.js';
import { DirtyBitmaps } from './metadata/dirty-bitmaps.js';
import { readHeader } from './metadata/header-io.js';
import { Image } from './metadata/image.js';
import { openFile } from './open-file.js';
import type { BackingChoice, ImageFormat, OpenOptions, Reference, Source } from './options.js';
import { closeAll, type Closable } from './storage/closable.js';
import { probeFormat } from './storage/probe.js';
import { resolveReference } from './storage/resolve.js';
import type { Storage } from './storage/storage.js';

/** Everything behind an open image, and what has to be closed with it. */
export interface Opened {
  readonly guest: GuestImage;
  /** What was opened for this image, in the order of opening. */
  readonly owned: Closable[];
  /** How it was opened, so that what it stands on can be opened alike. */
  readonly options: OpenOptions;
  /** How to open again what `guest.backing` is; null without one, or where this image does not own it. */
  below: Below | null;
}

/** How a backing disk was opened. */
export interface Below {
  readonly source: Source;
  readonly format: ImageFormat;
  readonly options: OpenOptions;
}

/** Deeper chains are taken for a mistake, as they would cost a file descriptor and a lookup each. */
const maxChainDepth = 200;
export const defaultCacheBytes = 32 * 1024 * 1024;

/** The images above the one being opened: their identities, and how to open a disk of a known format. */
export interface ChainContext {
  readonly identities: readonly string[];
  /** Makes a disk of an opened image. Given from above, because the class for it is defined there. */
  readonly makeDisk: (opened: Opened, options: OpenOptions) => Disk;
}

/** Opens a qcow2 image. On failure everything opened on the way is closed again. */
export async function openImage(
  source: Source,
  options: OpenOptions,
  context: ChainContext,
): Promise<Opened> {
  const owned: Closable[] = [];
  try {
    const { storage, owned: isOwned } = await openFile(source, options);
    if (isOwned) owned.push(storage);
    return { ...(await assemble(storage, options, context, owned)), owned, options };
  } catch (error) {
    await closeAll(owned);
    throw error;
  }
}

/** Opens a source as a disk of a given format, or of the one its first bytes tell. */
export async function openAnyDisk(
  source: Source,
  format: ImageFormat | undefined,
  options: OpenOptions,
  context: ChainContext,
): Promise<{ disk: Disk; format: ImageFormat }> {
  const opened = await openFile(source, options);
  const owned: Closable[] = opened.owned ? [opened.storage] : [];
  try {
    const found = format ?? (await probeFormat(opened.storage));
    if (found === 'raw') {
      return { disk: new RawDisk(opened.storage, await opened.storage.size(), opened.owned), format: found };
    }
    const parts = await assemble(opened.storage, options, context, owned);
    return { disk: context.makeDisk({ ...parts, owned, options }, options), format: found };
  } catch (error) {
    await closeAll(owned);
    throw error;
  }
}

/**
 * Opens an image as a layer on a disk that is open already, whatever backing file it names. Closing it closes that disk.
 * @throws Qcow2Error `ERR_QCOW2_CONFLICT` when it is raw: it would hide everything below
 */
export async function openLayer(
  source: Source,
  format: ImageFormat | undefined,
  options: OpenOptions,
  context: ChainContext,
  backing: Disk | null,
): Promise<Disk> {
  const opened = await openFile(source, options);
  const owned: Closable[] = opened.owned ? [opened.storage] : [];
  try {
    const found = format ?? (await probeFormat(opened.storage));
    if (found === 'raw' && backing === null) {
      return new RawDisk(opened.storage, await opened.storage.size(), opened.owned);
    }
    if (found === 'raw') {
      throw new Qcow2Error(
        'ERR_QCOW2_CONFLICT',
        `${opened.storage.name} is raw and so can only be the lowest layer of a chain`,
        { feature: 'backing file' },
      );
    }
    const { guest, below } = await assemble(opened.storage, options, context, owned, backing);
    if (backing !== null) owned.unshift(backing);
    return context.makeDisk({ guest, below, owned, options }, options);
  } catch (error) {
    await closeAll(owned);
    throw error;
  }
}

async function assemble(
  storage: Storage,
  options: OpenOptions,
  context: ChainContext,
  owned: Closable[],
  given?: Disk | null,
): Promise<Pick<Opened, 'guest' | 'below'>> {
  const forRepair = options.forRepair ?? false;
  const header = await readHeader(storage, forRepair);
  const writable = options.mode === 'r+';
  const dataStorage = await openDataFile(storage, header, options, context.identities, owned);
  const cipher = await openCipher(storage, header, options);
  const backing =
    given === undefined ? await openBacking(storage, header, options, context, owned) : alreadyOpen(given);
  const image = await Image.open(storage, dataStorage, header, {
    writable,
    forRepair,
    cacheBytes: options.cacheBytes ?? defaultCacheBytes,
  });
  if (writable && !forRepair) await prepareForWriting(image);
  return { guest: makeGuest(image, backing?.disk ?? null, cipher), below: backing?.below ?? null };
}

/** Does what the format demands before the first write to an image. */
async function prepareForWriting(image: Image): Promise<void> {
  await image.clearUnknownAutoclear();
  if (!hasFeature(image.header, 'dirty')) return;
  const { repairDirtyImage } = await import('./operations/repair.js');
  log('%s was not closed properly: counting its clusters', image.storage.name);
  await repairDirtyImage(image);
}

const alreadyOpen = (disk: Disk | null): OpenedBelow | null => (disk === null ? null : { disk, below: null });

/** Puts what guest requests need around an image. */
export function makeGuest(image: Image, backing: Disk | null, cipher: DataCipher | null): GuestImage {
  const { header, storage } = image;
  image.allocator.onShortFile(async () => {
    const { refuseCutFile } = await import('./operations/repair/cut-file.js');
    await refuseCutFile(image);
  });
  return {
    image,
    locks: new RangeLock(),
    decoded: new DecodedClusters(storage, header.geometry.clusterSize, header.compressionType),
    compressedSpace: new CompressedSpace(image),
    backing,
    cipher,
    bitmaps: new DirtyBitmaps(image, async () => {
      const { knownReferences } = await import('./operations/check/known-references.js');
      return knownReferences(image);
    }),
  };
}

interface OpenedBelow {
  readonly disk: Disk;
  readonly below: Below | null;
}

async function openBacking(
  storage: Storage,
  header: Header,
  options: OpenOptions,
  context: ChainContext,
  owned: Closable[],
): Promise<OpenedBelow | null> {
  if (options.backing === 'none') return null;
  const choice = typeof options.backing === 'object' ? options.backing : null;
  if (header.backingFile === null && choice === null) return null;
  if (header.backingFile === null && choice?.source === undefined) {
    throw new Qcow2Error(
      'ERR_QCOW2_REFERENCE',
      `${storage.name} names no backing file; say which one to open by its source`,
      { feature: 'backing file' },
    );
  }
  const reference: Reference = {
    kind: 'backing',
    name: header.backingFile ?? '',
    format: choice?.format ?? header.backingFormat,
    from: storage.path ?? null,
  };
  const opened = await openBackingFile(storage, reference, options, context, choice ?? {});
  owned.push(opened.disk);
  return opened;
}

/**
 * Opens a file for an image to stand on, read-only, by a reference that the image has or is to get.
 * @param choice what the caller has chosen of it
 */
export async function openBackingFile(
  storage: Storage,
  reference: Reference,
  options: OpenOptions,
  context: ChainContext,
  choice: BackingChoice = {},
): Promise<{ disk: Disk; below: Below }> {
  const identities = [...context.identities, storage.identity ?? ''];
  if (identities.length > maxChainDepth) {
    throw new Qcow2Error('ERR_QCOW2_REFERENCE', `The backing chain is deeper than ${maxChainDepth} images`, {
      feature: 'backing file',
    });
  }
  const source = choice.source ?? (await resolveReference(reference, options.resolve ?? 'deny'));
  const format = backingFormat(reference.format);
  await refuseAgain(source, identities, 'backing file', storage);
  const inherited = optionsForBacking(options, choice);
  const below = await openFile(source, inherited, choice.source === undefined);
  const belowOwned: Closable[] = below.owned ? [below.storage] : [];
  try {
    // Looked at again: the name may stand for something else by now.
    refuseIdentity(below.storage.identity, identities, 'backing file', storage);
    const found = format ?? (await guessBackingFormat(storage, below.storage, options.resolve));
    let disk: Disk;
    if (found === 'raw') disk = new RawDisk(below.storage, await below.storage.size(), below.owned);
    else {
      const parts = await assemble(below.storage, inherited, { ...context, identities }, belowOwned);
      disk = context.makeDisk({ ...parts, owned: belowOwned, options: inherited }, inherited);
    }
    return { disk, below: { source, format: found, options: inherited } };
  } catch (error) {
    await closeAll(belowOwned);
    if (error instanceof Qcow2Error) error.depth = (error.depth ?? 0) + 1;
    throw error;
  }
}

/**
 * What a guest wrote at the start of a raw backing file could make it pass for qcow2, so guessing is told, except to who
 * decides over each reference.
 */
async function guessBackingFormat(
  storage: Storage,
  below: Storage,
  policy: OpenOptions['resolve'],
): Promise<ImageFormat> {
  const format = await probeFormat(below);
  if (typeof policy === 'function') return format;
  process.emitWarning(
    `${quote(storage.name)} does not tell the format of its backing file ${quote(below.name)}, which looks like ` +
      `${format}. Set it (qemu-img rebase -u -F ${format} ...), or open the image with a resolve function`,
    { type: 'Qcow2Warning', code: 'QCOW2_BACKING_FORMAT' },
  );
  return format;
}

/** A backing file is only read, whatever happens to the image on top of it. */
function optionsForBacking(
  { resolve, cacheBytes, ...above }: OpenOptions,
  { backing, window, secret = above.secret, lock = above.lock }: BackingChoice,
): OpenOptions {
  return {
    ...(backing === undefined ? {} : { backing }),
    ...(window === undefined ? {} : { window }),
    ...(resolve === undefined ? {} : { resolve }),
    ...(secret === undefined ? {} : { secret }),
    ...(cacheBytes === undefined ? {} : { cacheBytes }),
    ...(lock === undefined ? {} : { lock }),
  };
}

function backingFormat(name: string | null): ImageFormat | undefined {
  if (name === null) return undefined;
  if (name === 'raw' || name === 'qcow2') return name;
  throw new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The backing file has the format ${quote(name)}; this package reads qcow2 and raw`,
    { feature: 'backing file format' },
  );
}

/** Unlocks the data when a secret is given; without one, everything but the data can be looked at. */
async function openCipher(
  storage: Storage,
  header: Header,
  { secret }: OpenOptions,
): Promise<DataCipher | null> {
  if (header.cryptMethod === 'none') return null;
  const sectors = header.cryptMethod === 'luks' ? 'host' : 'guest';
  if (secret === undefined) return lockedData(sectors);
  if (header.cryptMethod === 'aes') {
    const { legacyAesCipher } = await import('./io/encryption/legacy-aes.js');
    return { cipher: legacyAesCipher(secret), sectors };
  }
  const { unlockLuks } = await import('./io/encryption/luks-unlock.js');
  return { cipher: (await unlockLuks(await readLuksArea(storage, header), secret)).cipher, sectors };
}

const refuse = (): void => void requireSecret(undefined);
const lockedCipher: SectorCipher = { sectorSize: cryptSectorSize, encrypt: refuse, decrypt: refuse };
/** Stands for the cipher of data that cannot be read or written for want of a secret. */
export const lockedData = (sectors: DataCipher['sectors']): DataCipher => ({ cipher: lockedCipher, sectors });
