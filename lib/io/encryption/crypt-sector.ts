/** What is encrypted at a time. Apart from the ciphers, since most images have none and `node:crypto` takes long to load. */

/** Unit of encryption in every encrypted image, bytes. */
export const cryptSectorSize = 512;

/** Works on whole sectors, synchronously, at about a gigabyte a second; hand it at most a megabyte between turns. */
export interface SectorCipher {
  readonly sectorSize: typeof cryptSectorSize;
  /**
   * Decrypts `buffer` in place.
   * @param buffer a multiple of 512 bytes
   * @param firstSector number of its first sector: for LUKS the host offset / 512, for legacy AES the guest offset / 512
   */
  decrypt(buffer: Uint8Array, firstSector: number): void;
  /** Encrypts `buffer` in place; the arguments are those of {@link decrypt}. */
  encrypt(buffer: Uint8Array, firstSector: number): void;
}
