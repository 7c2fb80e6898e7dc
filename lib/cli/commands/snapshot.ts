/** `snapshot`: lists, makes, applies and deletes snapshots inside an image. */
import type { Context } from '../context.js';
import { hasCode } from '../../errors.js';
import { failure, reasonOf } from '../error-text.js';
import type { Reason } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import type { Disk, Qcow2 } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { isQcow2 } from '../is-qcow2.js';
import { snapshotTable } from '../print-snapshots.js';
import { spec } from '../specs/snapshot.js';

export async function run(words: readonly string[], context: Context): Promise<number> {
  const { name, images, action } = parse(words);
  const { disk } =
    action?.kind === 'list'
      ? await images.openDisk(name, { data: true })
      : await images.openForWriting(name, context);
  try {
    if (action?.kind === 'list') await list(disk, context);
    else if (action !== null) await interruptible((signal) => change(disk, action, signal));
  } finally {
    await disk.close();
  }
  return 0;
}

interface Action {
  kind: 'list' | 'create' | 'apply' | 'delete';
  /** Of the snapshot. */
  which: string;
}

interface Request {
  name: ImageName;
  images: ImageArguments;
  action: Action | null;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  let action: Action | null = null;
  for (const { name, value } of line) {
    if (name !== 'list' && name !== 'create' && name !== 'apply' && name !== 'delete') {
      images.take(name, value);
      continue;
    }
    if (action !== null) throw new UsageFailure("Cannot mix '-l', '-a', '-c', '-d'");
    action = { kind: name, which: value };
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  return { images, action, name: images.name(file) };
}

async function list(disk: Disk, { out }: Context): Promise<void> {
  const snapshots = isQcow2(disk) ? await disk.snapshots.list() : [];
  if (snapshots.length > 0) out.write(snapshotTable(snapshots, (text) => out.foreign(text)));
}

async function change(disk: Disk, { kind, which }: Action, signal: AbortSignal): Promise<void> {
  try {
    if (!isQcow2(disk)) throw new Failure(reasonsOfRaw[kind]);
    if (kind === 'create') await disk.snapshots.create({ name: which, signal });
    if (kind === 'apply') await disk.snapshots.apply(which, { signal });
    if (kind === 'delete') await disk.snapshots.delete(await idOf(disk, which), { signal });
  } catch (error) {
    signal.throwIfAborted();
    const hasBitmaps = isQcow2(disk) && disk.header.bitmaps !== null;
    throw failure(`Could not ${kind} snapshot '${which}': `, reason(error, kind, hasBitmaps), error);
  }
}

const notSupported = '-95 (Operation not supported)';

const reasonsOfRaw = {
  list: notSupported,
  create: notSupported,
  apply: 'Block driver does not support snapshots',
  delete: 'snapshot not found',
} as const;

/** Snapshots are deleted by their names alone. */
async function idOf(disk: Qcow2, name: string): Promise<string> {
  const found = (await disk.snapshots.list()).find((snapshot) => snapshot.name === name);
  if (found === undefined) throw new Failure('snapshot not found');
  return found.id;
}

function reason(error: unknown, kind: Action['kind'], hasBitmaps: boolean): Reason {
  if (kind === 'apply' && hasBitmaps) return { text: 'Device has active dirty bitmaps' };
  if (kind === 'apply' && hasCode(error, 'ERR_QCOW2_NOT_FOUND')) {
    return { text: 'Failed to load snapshot: No such file or directory' };
  }
  if (kind === 'apply' && hasCode(error, 'ERR_QCOW2_CONFLICT')) {
    return { text: 'Failed to load snapshot: Operation not supported' };
  }
  if (hasCode(error, 'ERR_QCOW2_CONFLICT')) return { text: notSupported };
  if (hasCode(error, 'ERR_QCOW2_LIMIT')) return { text: '-22 (Invalid argument)', hint: error.message };
  return reasonOf(error, { name: '', writing: true });
}
