/** The option `-l`: which snapshot of an image is meant. */
import { Failure } from './failure.js';
import type { Disk } from '../index.js';
import { isQcow2 } from './is-qcow2.js';
import { splitList } from './o-options.js';

/** A snapshot by its id, its name, both, or one of the two. */
export type SnapshotChoice = { either: string } | { id: string | undefined; name: string | undefined };

/** @throws Failure in the words of qemu-img */
export function parseSnapshotChoice(text: string): SnapshotChoice {
  if (!text.startsWith('snapshot.')) return { either: text };
  const items = new Map(splitList(text).map(({ name, value }) => [name, value ?? 'on']));
  const unknown = [...items.keys()].find((name) => name !== 'snapshot.id' && name !== 'snapshot.name');
  if (unknown !== undefined) {
    throw new Failure([`Invalid parameter '${unknown}'`, `Failed in parsing snapshot param '${text}'`]);
  }
  return { id: items.get('snapshot.id'), name: items.get('snapshot.name') };
}

/** Opens the snapshot of a disk. @throws Failure in the words of qemu-img */
export async function openSnapshot(disk: Disk, choice: SnapshotChoice): Promise<Disk> {
  if (!isQcow2(disk)) {
    throw new Failure(
      "Failed to load snapshot: Block format 'raw' used by device '' does not support temporarily loading internal snapshots",
    );
  }
  const snapshots = await disk.snapshots.list();
  const found =
    'either' in choice
      ? (snapshots.find(({ id }) => id === choice.either) ??
        snapshots.find(({ name }) => name === choice.either))
      : snapshots.find(({ id, name }) => (choice.id ?? id) === id && (choice.name ?? name) === name);
  if (found === undefined) throw new Failure("Failed to load snapshot: Can't find snapshot");
  return disk.snapshots.open(found.id);
}
