/** Opening the file that a rebase is to put an image on. */
import { log } from '../../log.js';
import { openBackingFile, type ChainContext, type Opened } from '../../open.js';
import type { ResolvePolicy } from '../../options.js';
import { resolveReference } from '../../storage/resolve.js';
import type { BackingName, NewBacking } from '../rebase.js';

/**
 * Opens the new backing file of an image.
 * @param required otherwise one that cannot be opened gives null
 */
export async function openNewBacking(
  { guest, options }: Opened,
  { name, format }: BackingName,
  required: boolean,
  context: ChainContext,
): Promise<NewBacking | null> {
  if (!required && options.backing === 'none') return null;
  const { storage } = guest.image;
  const from = storage.path ?? null;
  const policy = options.resolve ?? 'deny';
  // The caller names this file; a caller that resolves names does so for this one, too.
  const resolve: ResolvePolicy =
    typeof policy === 'function'
      ? policy
      : (reference) => resolveReference(reference, reference.from === from ? 'any' : policy);
  const reference = { kind: 'backing', name, format: format ?? null, from } as const;
  try {
    return await openBackingFile(storage, reference, { ...options, resolve }, context);
  } catch (error) {
    if (required) throw error;
    log('the new backing file of %s cannot be opened: %s', storage.name, error);
    return null;
  }
}
