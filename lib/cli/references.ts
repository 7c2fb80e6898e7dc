/** Which files an image may lead to: plain names only, told about by the names a user knows. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Reference } from '../options.js';
import { systemErrorText } from './error-text.js';
import { Failure } from './failure.js';
import { besideImage, protocolOf } from './image-name.js';

/**
 * Finds the files that an image at `path`, and those below it, refer to.
 * @param chosen those that are to stand in the place of what it names
 */
export function plainReferences(
  path: string,
  chosen: readonly string[] = [],
): (reference: Reference) => string {
  /** How the files met so far are called, by their absolute paths. */
  const names = new Map([path, ...chosen].map((name) => [resolve(name), name]));
  return ({ kind, name, from }) => {
    const found = besideImage(from === null ? path : (names.get(from) ?? from), name);
    const failed = kind === 'backing' ? 'Could not open backing file: Could not open' : 'Could not open';
    if (protocolOf(found) !== null) throw onlyPlainNames(found);
    try {
      statSync(found);
    } catch (cause) {
      throw new Failure(`${failed} '${found}': ${systemErrorText(cause)}`, { cause });
    }
    names.set(resolve(found), found);
    return found;
  };
}

/** The failure for `json:`, `nbd:` and the like: an image must not make us talk to anything. */
export function onlyPlainNames(name: string): Failure {
  return new Failure(`Could not open '${name}': only plain file names inside an image are followed`);
}
