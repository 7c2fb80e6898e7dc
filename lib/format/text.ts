/** Names inside an image: UTF-8 by custom, arbitrary bytes in truth. */

// A byte order mark is part of the name, not a hint about it.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** Decodes a name for people; bytes that are not UTF-8 become U+FFFD, so keep the bytes where they matter. */
export const decodeName = (bytes: Uint8Array): string => decoder.decode(bytes);

/** Decodes a file or format name, which ends at the first NUL, as no path can hold one. */
export function decodePath(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decodeName(end < 0 ? bytes : bytes.subarray(0, end));
}

export const encodeName = (name: string): Uint8Array => new TextEncoder().encode(name);

/** An offset or number for a message: hexadecimal, as tools that look at images show it. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
