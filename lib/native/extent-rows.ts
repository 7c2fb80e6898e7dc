/** Extents as rows of numbers. */

/** Numbers per row. */
export const extentStride = 5;

/** What the numbers of a row are: bytes, but for the type, one of {@link ExtentTypeIndex}, and the depth. */
export const ExtentColumn = {
  start: 0,
  length: 1,
  type: 2,
  depth: 3,
  /** -1 where an extent has no place in a file. */
  hostOffset: 4,
} as const;

/** In step with `ExtentType` of native/core/extent_json.h. */
export const ExtentTypeIndex = {
  data: 0,
  compressed: 1,
  zero: 2,
  unallocated: 3,
} as const;

/** The type of a row for an entry that breaks the specification; the reason is in the place of the host offset. */
export const invalidExtent = -1;
