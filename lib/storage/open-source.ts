/** Turns whatever a caller names as an image into a Storage, and tells who closes it. */
import type { FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Qcow2Error, invalidArgType, invalidArgValue } from '../errors.js';
import { FileStorage } from './file.js';
import type { FileMode, FileOptions } from './file.js';
import { identityOfPath, identityOfStats } from './file-kind.js';
import { makeEmpty, type Storage } from './storage.js';

/**
 * Where an image lives: a path (a string is always one, whatever it looks like), a `file:` URL, an `http:` or `https:`
 * URL of a file that is only read, a FileHandle or a Storage. What was opened here is closed here; a FileHandle or Storage that the caller gave stays open for the caller.
 */
export type Source = string | URL | FileHandle | Storage;

export interface OpenedSource {
  readonly storage: Storage;
  /** Whether closing `storage` is up to whoever opened the source: false for a Storage that the caller gave. */
  readonly owned: boolean;
}

/**
 * Opens a source; with the mode `create` it is empty afterwards.
 * @throws TypeError for what is no source; Qcow2Error `ERR_QCOW2_READ_ONLY` when a read-only Storage is to be changed;
 * else as {@link FileStorage.open}
 */
export async function openSource(source: Source, options: FileOptions): Promise<OpenedSource> {
  if (typeof source === 'string') return openFile(source, options);
  if (source instanceof URL) {
    if (source.protocol === 'file:') return openFile(fileURLToPath(source), options);
    return openRemote(source, options.mode);
  }
  if (isStorage(source)) return { storage: await prepare(source, options.mode), owned: false };
  if (isFileHandle(source)) return { storage: await FileStorage.wrap(source, options), owned: true };
  throw invalidArgType('source', 'a path, a URL, a FileHandle or a Storage', source);
}

/** Tells what object a source is ({@link Storage.identity}) without opening it; undefined where that cannot be told. */
export async function identityOf(source: Source): Promise<string | undefined> {
  const path = pathOf(source);
  if (path !== undefined) return identityOfPath(path);
  if (isFileHandle(source)) return identityOfStats(await source.stat({ bigint: true }));
  return isStorage(source) ? source.identity : undefined;
}

/**
 * Refuses a target that is the source under whatever name: it would be emptied before it is read.
 * @throws Qcow2Error `ERR_QCOW2_DATA_LOSS`
 */
export async function refuseOwnSource(source: Source, target: Source): Promise<void> {
  const identity = await identityOf(target);
  if (identity === undefined || identity !== (await identityOf(source))) return;
  throw new Qcow2Error(
    'ERR_QCOW2_DATA_LOSS',
    'What is to be read would be overwritten: source and target are the same file',
  );
}

/** The absolute path of a source that has one. */
export function pathOf(source: Source): string | undefined {
  if (typeof source === 'string') return resolve(source);
  if (source instanceof URL) return source.protocol === 'file:' ? fileURLToPath(source) : undefined;
  return isStorage(source) ? source.path : undefined;
}

async function openFile(path: string, options: FileOptions): Promise<OpenedSource> {
  return { storage: await FileStorage.open(path, options), owned: true };
}

async function openRemote(url: URL, mode: FileMode): Promise<OpenedSource> {
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw invalidArgValue('source', 'must be a file:, http: or https: URL', url.protocol);
  }
  if (mode !== 'r')
    throw new Qcow2Error('ERR_QCOW2_READ_ONLY', `${url.origin} can only be read; use the mode "r"`);
  // Not everyone needs a web client.
  const { HttpStorage } = await import('./http.js');
  return { storage: await HttpStorage.open(url), owned: true };
}

async function prepare(storage: Storage, mode: FileMode): Promise<Storage> {
  if (mode !== 'r' && storage.readOnly) {
    throw new Qcow2Error('ERR_QCOW2_READ_ONLY', `${storage.name} is read-only; open it with the mode "r"`);
  }
  if (mode === 'create') await makeEmpty(storage);
  return storage;
}

function isStorage(source: unknown): source is Storage {
  return hasMethods(source, ['read', 'write', 'flush', 'size', 'truncate', 'close']);
}

function isFileHandle(source: unknown): source is FileHandle {
  return hasMethods(source, ['read', 'write', 'datasync', 'stat', 'close']) && 'fd' in source;
}

function hasMethods(value: unknown, names: readonly string[]): value is object {
  if (typeof value !== 'object' || value === null) return false;
  return names.every((name) => typeof (value as Record<string, unknown>)[name] === 'function');
}
