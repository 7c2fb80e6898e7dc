/** A few decoded compressed clusters, so that small reads in a row do not decode the same cluster again and again. */
import { Qcow2Error } from '../errors.js';
import type { CompressionType } from '../format/header-fields.js';
import type { GuestOffset, HostOffset } from '../format/units.js';
import { DecodeResult } from '../native.js';
import { decodeCluster } from './codec.js';
import { readPadded, type Storage } from '../storage/storage.js';

const capacity = 8;

const decodeProblems: Record<DecodeResult, string> = {
  [DecodeResult.ok]: 'is fine',
  [DecodeResult.damaged]: 'cannot be decoded',
  [DecodeResult.tooShort]: 'decodes to less than a cluster',
  [DecodeResult.tooLong]: 'decodes to more than a cluster',
  [DecodeResult.noMemory]: 'cannot be decoded for want of memory',
};

export class DecodedClusters {
  readonly #storage: Storage;
  readonly #clusterSize: number;
  readonly #type: CompressionType;
  readonly #clusters = new Map<number, Promise<Uint8Array>>();

  constructor(storage: Storage, clusterSize: number, type: CompressionType) {
    this.#storage = storage;
    this.#clusterSize = clusterSize;
    this.#type = type;
  }

  /**
   * The content of the compressed cluster whose data begins at `host` and ends at most `length` bytes further. The
   * caller must not change it.
   * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when the data does not decode to one cluster
   */
  get(host: HostOffset, length: number, guest: GuestOffset): Promise<Uint8Array> {
    const known = this.#clusters.get(host);
    if (known !== undefined) return known;
    const decoding = this.#decode(host, length, guest);
    this.#clusters.set(host, decoding);
    decoding.catch(() => this.#clusters.delete(host));
    for (const oldest of this.#clusters.keys()) {
      if (this.#clusters.size <= capacity) break;
      this.#clusters.delete(oldest);
    }
    return decoding;
  }

  /** Forgets everything: compressed data is about to be written, perhaps where other data was. */
  clear(): void {
    this.#clusters.clear();
  }

  async #decode(host: HostOffset, length: number, guest: GuestOffset): Promise<Uint8Array> {
    const input = new Uint8Array(length);
    await readPadded(this.#storage, input, host);
    return decodeClusterOrFail(this.#type, input, this.#clusterSize, host, guest);
  }
}

/**
 * Decodes the data that was found at `host` for the cluster at `guest`.
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when it does not decode to one cluster
 */
export async function decodeClusterOrFail(
  type: CompressionType,
  input: Uint8Array,
  clusterSize: number,
  host: HostOffset,
  guest: GuestOffset,
): Promise<Uint8Array> {
  const output = new Uint8Array(clusterSize);
  const result = await decodeCluster(type, input, output);
  if (result === DecodeResult.ok) return output;
  throw new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `The compressed cluster for guest offset ${guest}, ${input.length} bytes at offset ${host}, ${decodeProblems[result]}. ` +
      'Its content is lost; the rest of the disk stays readable',
    { offset: host, feature: 'compressed cluster' },
  );
}
