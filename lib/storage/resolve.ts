/** Decides what may be opened because an image names it: its backing file or its external data file. */
import { dirname, isAbsolute, resolve as resolvePath } from 'node:path';
import { Qcow2Error, withVisiblePath } from '../errors.js';
import { quote } from '../format/text.js';
import type { Reference, ResolvePolicy, Source } from '../options.js';
import { realpath, stat } from './file-kind.js';

/** A colon makes what is before it a protocol for QEMU, unless there is a slash in front: `./a:b` is a file name. */
const protocol = /^[^/]*:/;

/**
 * The source a reference stands for under a policy.
 * @throws Qcow2Error `ERR_QCOW2_REFERENCE_DENIED` when the policy refuses it, `ERR_QCOW2_REFERENCE` when it cannot be a
 * file or is none
 */
export async function resolveReference(reference: Reference, policy: ResolvePolicy): Promise<Source> {
  if (typeof policy === 'function') return policy(reference);
  if (policy === 'deny') {
    throw denied(
      reference,
      "references are not followed by default; give `resolve: 'same-directory' | 'any'` or a function",
    );
  }
  const path = fileNameOf(reference);
  if (policy === 'same-directory' && dirname(path) !== dirname(baseOf(reference))) {
    throw denied(reference, 'it is not in the directory of the image');
  }
  const found = await stat(path).catch((cause: unknown) => {
    throw new Qcow2Error(
      'ERR_QCOW2_REFERENCE',
      `The ${what(reference)} ${quote(reference.name)} cannot be opened: ${quote(path)} is not there`,
      {
        feature: what(reference),
        cause: withVisiblePath(cause),
      },
    );
  });
  if (!found.isFile()) {
    throw new Qcow2Error('ERR_QCOW2_REFERENCE', `The ${what(reference)} ${quote(path)} is no regular file`, {
      feature: what(reference),
    });
  }
  if (policy === 'same-directory' && !(await isReallyBeside(path, baseOf(reference)))) {
    throw denied(reference, 'it is a symbolic link that leads out of the directory of the image');
  }
  return path;
}

/** Whether a file is in the directory of an image even when symbolic links are followed. */
async function isReallyBeside(path: string, image: string): Promise<boolean> {
  return dirname(await realpath(path)) === (await realpath(dirname(image)));
}

function fileNameOf(reference: Reference): string {
  const { name } = reference;
  const plain = name.startsWith('file:') ? name.slice('file:'.length) : name;
  if (protocol.test(plain)) {
    throw denied(
      reference,
      'names with a protocol are never followed; use a resolve function to open it yourself',
    );
  }
  return isAbsolute(plain) ? resolvePath(plain) : resolvePath(dirname(baseOf(reference)), plain);
}

function baseOf(reference: Reference): string {
  if (reference.from !== null) return reference.from;
  throw denied(
    reference,
    'the image was not opened by a path, so a relative name has no start; use a resolve function',
  );
}

function denied(reference: Reference, why: string): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_REFERENCE_DENIED',
    `The image refers to the ${what(reference)} ${quote(reference.name)}, which was not opened: ${why}`,
    { feature: what(reference) },
  );
}

const what = ({ kind }: Reference): string => (kind === 'backing' ? 'backing file' : 'external data file');
