/** Cutting free clusters off the end of the image file. */
import type { Image } from '../../metadata/image.js';

/** Truncates the file behind its last used cluster. Everything must have been committed, and no one may allocate. */
export async function trimFile(image: Image): Promise<void> {
  const { clusterSize } = image.geometry;
  const fileEnd = await image.storage.size();
  let clusters = Math.ceil(fileEnd / clusterSize);
  if (await image.refcounts.isUsedFrom(clusters)) return;
  const lastUsed = await image.refcounts.usedEnd(clusters);
  // Metadata stays whatever its refcount says.
  while (clusters > lastUsed && !isReserved(image, clusters - 1)) clusters--;
  if (clusters * clusterSize >= fileEnd) return;
  image.fileEnd.forget();
  await image.storage.truncate(clusters * clusterSize);
}

function isReserved({ reserved, geometry: { clusterSize } }: Image, cluster: number): boolean {
  return reserved.overlap(cluster * clusterSize, clusterSize) !== undefined;
}
