/** Loads the addon. What its functions take and give is told in `native/`. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { Qcow2Error } from './errors.js';
import type { BitSetFunctions } from './native/bit-sets.js';
import { describeLoadProblem } from './native/load-problem.js';
import type { ByteFunctions } from './native/bytes.js';
import type { CodecFunctions } from './native/codecs.js';
import type { FileFunctions } from './native/files.js';
import type { L2Functions } from './native/l2.js';
import type { PictureFunctions } from './native/l2-picture.js';
import type { RefcountFunctions } from './native/refcounts.js';
import type { ReferenceCountsClass } from './native/reference-counts.js';
import type { TransferFunctions } from './native/transfer.js';

export * from './native/bit-sets.js';
export * from './native/codecs.js';
export * from './native/files.js';
export * from './native/l2.js';
export * from './native/reference-counts.js';
export * from './native/transfer.js';

/**
 * The native functions. All synchronous ones do bounded work on one table or one buffer; those that return a promise
 * work on the thread pool and hold their buffers until they settle. Every argument is checked: a wrong one throws a
 * TypeError `ERR_INVALID_ARG_TYPE` / `ERR_INVALID_ARG_VALUE` or a RangeError `ERR_OUT_OF_RANGE`.
 */
export interface NativeCore
  extends
    BitSetFunctions,
    ByteFunctions,
    CodecFunctions,
    FileFunctions,
    L2Functions,
    PictureFunctions,
    RefcountFunctions,
    ReferenceCountsClass,
    TransferFunctions {}

function load(): NativeCore {
  const require = createRequire(import.meta.url);
  // lib/ and dist/ are both one below the package's root.
  const root = fileURLToPath(new URL('..', import.meta.url));
  try {
    const loadAddon = require('node-gyp-build') as (directory: string) => NativeCore;
    return loadAddon(root);
  } catch (cause) {
    const host = { platform: `${process.platform}-${process.arch}`, node: process.version };
    throw new Qcow2Error('ERR_QCOW2_NATIVE', describeLoadProblem(cause, host), { cause });
  }
}

export const native: NativeCore = load();
