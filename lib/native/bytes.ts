/** Bytes in memory: where they are, zeros, and the steps of ciphers that OpenSSL leaves out. */

export interface ByteFunctions {
  /** How many bytes a buffer begins behind a multiple of `alignment` (up to 2 MiB) in memory. */
  misalignment(buffer: Uint8Array, alignment: number): number;

  /** Whether every byte is zero. */
  isZero(buffer: Uint8Array): boolean;
  /**
   * Splits a buffer into alternating runs of zero and non-zero blocks of `granularity` bytes (the last may be shorter).
   * Writes the end offset of each run to `out`, the first run being non-zero (its end is 0 when the buffer starts with
   * zeros). Returns the number of ends written; stops early when `out` is full.
   */
  zeroRuns(buffer: Uint8Array, granularity: number, out: Float64Array): number;

  /**
   * Expands the encrypted tweak of each sector (16 bytes) into the masks of its AES blocks, as IEEE 1619 has it for
   * AES-XTS. `sectorSize` is a multiple of 16, `out` holds that many bytes for each tweak.
   */
  xtsMasks(tweaks: Uint8Array, sectorSize: number, out: Uint8Array): void;
  /** `target` ^= `mask`, which is as long. */
  xorInto(target: Uint8Array, mask: Uint8Array): void;
  /**
   * Makes AES-ECB decrypted `blocks` the plaintext of AES-CBC. `ciphertext` is what they were decrypted from, `ivs` has
   * 16 bytes for each sector of `sectorSize` bytes (a multiple of 16).
   */
  cbcDecryptFinish(blocks: Uint8Array, ciphertext: Uint8Array, ivs: Uint8Array, sectorSize: number): void;
  /** Writes the plain64 vectors of `count` sectors: 16 bytes each, the sector number as 64 little-endian bits. */
  plain64(firstSector: number, count: number, out: Uint8Array): void;
}
