/** Loads the addon. What its functions take and give is told in `native/`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Qcow2Error } from './errors.js';
import type { BitSetFunctions } from './native/bit-sets.js';
import { describeLoadProblem } from './native/load-problem.js';
import type { ByteFunctions } from './native/bytes.js';
import type { CodecFunctions } from './native/codecs.js';
import type { ComparisonFunctions } from './native/comparison.js';
import type { ExtentJsonFunctions } from './native/extent-json.js';
import type { FileFunctions } from './native/files.js';
import type { L2Functions } from './native/l2.js';
import type { PictureFunctions } from './native/l2-picture.js';
import type { RefcountFunctions } from './native/refcounts.js';
import type { ReferenceCountsClass } from './native/reference-counts.js';
import type { TransferFunctions } from './native/transfer.js';
import { packageRoot } from './package-root.js';

export * from './native/bit-sets.js';
export * from './native/codecs.js';
export * from './native/comparison.js';
export * from './native/extent-json.js';
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
    ComparisonFunctions,
    ExtentJsonFunctions,
    FileFunctions,
    L2Functions,
    PictureFunctions,
    RefcountFunctions,
    ReferenceCountsClass,
    TransferFunctions {}

/**
 * The addon where `npm install` leaves it, by its name alone: that takes a tenth of the time node-gyp-build takes to look
 * through folders. Null where it is not so, or where the environment has a say in which one to take.
 */
function knownAddon(root: string): string | null {
  const { env, platform, arch, versions } = process;
  const isTold = ['QCOW2_PREBUILD', 'PREBUILDS_ONLY', 'LIBC', 'npm_config_arch', 'npm_config_platform'].some(
    (name) => env[name] !== undefined,
  );
  if (isTold || versions.electron !== undefined) return null;
  const compiled = join(root, 'build/Release/qcow2.node');
  if (existsSync(compiled)) return compiled;
  const libc = platform !== 'linux' ? '' : existsSync('/etc/alpine-release') ? '.musl' : '.glibc';
  const prebuilt = join(root, 'prebuilds', `${platform}-${arch}`, `qcow2${libc}.node`);
  return existsSync(prebuilt) ? prebuilt : null;
}

/** As `require` does, whose making takes longer. */
function loadFile(path: string): NativeCore {
  const module = { exports: {} };
  process.dlopen(module, path);
  return module.exports as NativeCore;
}

function load(): NativeCore {
  try {
    const known = knownAddon(packageRoot);
    if (known !== null) return loadFile(known);
    const { createRequire } = process.getBuiltinModule('node:module');
    const loadAddon = createRequire(import.meta.url)('node-gyp-build') as (directory: string) => NativeCore;
    return loadAddon(packageRoot);
  } catch (cause) {
    const host = { platform: `${process.platform}-${process.arch}`, node: process.version };
    throw new Qcow2Error('ERR_QCOW2_NATIVE', describeLoadProblem(cause, host), { cause });
  }
}

export const native: NativeCore = load();
