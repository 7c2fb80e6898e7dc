/** What random histories are made of: kinds of images, and what an image must be by now. */
import type { CreateOptions } from '../../lib/index.js';
import type { PlainBitmap } from '../support/bitmap-oracle.js';
import type { PlainDisk } from '../support/plain-disk.js';

export const secret = 'open sesame';

export interface HistoryKind {
  readonly name: string;
  readonly options: CreateOptions;
  /** Sectors that the disk may have. */
  readonly sectors: readonly [min: number, max: number];
  /** Whether it begins on a backing file, and whether it may get one. */
  readonly chain: 'none' | 'possible' | 'start';
}

/** A file to stand on. */
export interface BaseFile {
  readonly name: string;
  readonly format: 'raw' | 'qcow2';
  readonly model: PlainDisk;
}

export interface ModelBitmap {
  readonly model: PlainBitmap;
  enabled: boolean;
}

/** What the image must be. */
export interface ImageModel {
  readonly path: string;
  readonly kind: HistoryKind;
  disk: PlainDisk;
  backing: BaseFile | null;
  /** Null for content that a commit or rebase has changed under the snapshot: what QEMU reads is right then. */
  readonly snapshots: Map<string, PlainDisk | null>;
  readonly bitmaps: Map<string, ModelBitmap>;
  version: 2 | 3;
  refcountBits: number;
}

/** A file to stand on, as an image. */
export function asImage({ model }: BaseFile, path: string): ImageModel {
  const kind = { name: 'base', options: {}, sectors: [0, 0], chain: 'none' } as const;
  return {
    path,
    kind,
    disk: model,
    backing: null,
    snapshots: new Map(),
    bitmaps: new Map(),
    version: 3,
    refcountBits: 16,
  };
}

/** Notes a change of the disk in the bitmaps that record. */
export function mark({ bitmaps }: ImageModel, start: number, length: number): void {
  for (const { model, enabled } of bitmaps.values()) if (enabled) model.set(start, length);
}
