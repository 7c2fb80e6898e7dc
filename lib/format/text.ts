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

/** What ends a line or what a terminal acts on: C0 and C1 controls and DEL, and marks that turn the direction of text. */
const unsafe = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

const unicodeEscape = (char: string): string => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;

/** Text as one line that does nothing to a terminal: what might is `\xHH`, and past one byte `\uHHHH`. */
export const visible = (text: string): string =>
  text.replace(unsafe, (char) => unicodeEscape(char).replace('u00', 'x'));

/** A name for a message, in quotes. It may come from an image, so everything that is not plain text is escaped. */
export const quote = (name: string): string => JSON.stringify(name).replace(unsafe, unicodeEscape);
