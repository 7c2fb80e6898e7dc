/** What the kinds of a picture are called, and the words that explain them. */
import type { FileKind, GuestKind } from '../../operations/picture/record.js';

export interface KindText {
  readonly label: string;
  readonly meaning: string;
}

export const guestText: Record<GuestKind, KindText> = {
  data: { label: 'Data', meaning: 'stored as it is' },
  compressed: { label: 'Compressed', meaning: 'stored compressed' },
  zero: { label: 'Zeros', meaning: 'marked to read as zeros' },
  unallocated: { label: 'Not stored here', meaning: 'read from the backing file, else as zeros' },
  damaged: { label: 'Damaged', meaning: 'an entry or a table that cannot be right; reading it fails' },
};

export const fileText: Record<FileKind, KindText> = {
  metadata: { label: 'Metadata', meaning: 'header, tables, refcounts, lists of snapshots and bitmaps' },
  data: { label: 'Data', meaning: "the disk's data, stored as it is" },
  compressed: { label: 'Compressed', meaning: "the disk's data, compressed" },
  kept: { label: 'Kept for zeros', meaning: 'room of clusters that read as zeros' },
  other: { label: 'Snapshots and other', meaning: "data of snapshots alone, VM state, bitmaps' data" },
  leaked: { label: 'Leaked', meaning: 'has a refcount, but nothing refers to it; check -r leaks frees it' },
  free: { label: 'Free', meaning: 'nothing refers to it' },
};
