/** The L1 tables of an image's snapshots, one after the other. */
import { tableEntrySize } from '../../format/geometry.js';
import type { HostOffset } from '../../format/units.js';
import type { Image } from '../../metadata/image.js';
import { readSnapshotTable } from '../../metadata/snapshot-table-io.js';
import { readExactly } from '../../storage/storage.js';

export interface SnapshotL1 {
  readonly offset: HostOffset;
  readonly bytes: Uint8Array;
}

/** Yields each table once, however many snapshots have it. Tables without an entry are left out. */
export async function* snapshotL1s(image: Image): AsyncGenerator<SnapshotL1> {
  const seen = new Set<number>();
  for (const { id, l1TableOffset, l1Size } of await readSnapshotTable(image)) {
    if (l1Size === 0 || seen.has(l1TableOffset)) continue;
    seen.add(l1TableOffset);
    const bytes = new Uint8Array(l1Size * tableEntrySize);
    await readExactly(image.storage, bytes, l1TableOffset, `the L1 table of snapshot ${id}`);
    yield { offset: l1TableOffset, bytes };
  }
}
