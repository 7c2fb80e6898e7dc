/** Opening an external data file, and refusing files that are in use already. */
import { Qcow2Error } from './errors.js';
import { hasFeature } from './format/features.js';
import type { Header } from './format/header.js';
import type { OpenOptions, Reference, Source } from './options.js';
import type { Closable } from './storage/closable.js';
import { identityOf, openSource } from './storage/open-source.js';
import { resolveReference } from './storage/resolve.js';
import type { Storage } from './storage/storage.js';

/**
 * Opens the external data file of an image that has one, as its name and the options say; else null.
 * @param identities of the images above, which it must not be
 */
export async function openDataFile(
  storage: Storage,
  header: Header,
  options: Pick<OpenOptions, 'mode' | 'lock' | 'dataFile' | 'resolve'>,
  identities: readonly string[],
  owned: Closable[],
): Promise<Storage | null> {
  if (!hasFeature(header, 'externalData')) return null;
  if (options.dataFile === undefined && header.dataFile === null) {
    throw new Qcow2Error(
      'ERR_QCOW2_REFERENCE',
      `${storage.name} keeps its data in an external data file but does not name it; give the option dataFile`,
      { feature: 'external data file' },
    );
  }
  const reference: Reference = {
    kind: 'data-file',
    name: header.dataFile ?? '',
    format: 'raw',
    from: storage.path ?? null,
  };
  const source = options.dataFile ?? (await resolveReference(reference, options.resolve ?? 'deny'));
  await refuseAgain(source, [...identities, storage.identity ?? ''], 'external data file', storage);
  const opened = await openSource(source, {
    mode: options.mode ?? 'r',
    lock: options.lock ?? true,
    regularOnly: options.dataFile === undefined,
  });
  if (opened.owned) owned.push(opened.storage);
  return opened.storage;
}

/**
 * Refuses a source that is an image already open above, before opening it: its locks would be in the way of a good answer.
 */
export async function refuseAgain(
  source: Source,
  identities: readonly string[],
  what: string,
  storage: Storage,
): Promise<void> {
  refuseIdentity(await identityOf(source), identities, what, storage);
}

export function refuseIdentity(
  identity: string | undefined,
  identities: readonly string[],
  what: string,
  storage: Storage,
): void {
  if (identity === undefined || !identities.includes(identity)) return;
  throw new Qcow2Error(
    'ERR_QCOW2_REFERENCE',
    `The ${what} of ${storage.name} is that image itself or one that stands on it`,
    { feature: what },
  );
}
