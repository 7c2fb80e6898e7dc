/** Extents as text. */

/** Bytes that the text of one extent has at most. */
export const maxExtentJson = 192;

export interface ExtentJsonFunctions {
  /**
   * Writes each extent, a row as `lib/io/extent-rows.ts` has them, as `,\n` and a JSON object, laid out as `qemu-img map`
   * does, to `out`, which has room for {@link maxExtentJson} bytes each. Returns the bytes written.
   */
  extentJson(extents: Float64Array, out: Uint8Array): number;
}
