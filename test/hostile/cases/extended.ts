/** Extended L2 entries: the bitmaps of subclusters. */
import { compressedFlag, copied, patternOf, type ImageBuilder } from '../builder.js';
import {
  guestCluster,
  opened,
  type GuestRange,
  type HostileCase,
  type Opened,
  type Remark,
} from '../outcome.js';
import { guest, small } from '../standard.js';

const clusterSize = 16384;
const subcluster = clusterSize / 32;
const allocated = (mask: number): bigint => BigInt(mask >>> 0);
const zero = (mask: number): bigint => BigInt(mask >>> 0) << 32n;

function make(change: (image: ImageBuilder, entry: number) => unknown): ImageBuilder {
  const image = small({ clusterBits: 14, extendedL2: true });
  change(image, image.l2At(guest.data));
  return image;
}

const unallocatedBitmap = (bitmap: bigint, descriptor = 0n): ImageBuilder =>
  make((image) => {
    const entry = image.l2At(guest.unallocated);
    image.u64(entry, descriptor).u64(entry + 8, bitmap);
  });

function broken(name: string, image: ImageBuilder, cluster: number, remark: Remark = {}): HostileCase {
  return opened(`extended entry: ${name}`, image, { broken: [guestCluster(image, cluster)], ...remark });
}

function fine(name: string, image: ImageBuilder, details: Partial<Opened> = {}): HostileCase {
  return opened(`extended entry: ${name}`, image, details);
}

/** Sound data with only some subclusters allocated; the rest of the cluster is stale and must not show. */
function partly(mask: number, zeroMask = 0): ImageBuilder {
  const image = make((built, entry) => built.u64(entry + 8, allocated(mask) | zero(zeroMask)));
  const bytes = patternOf(guest.data + 1, clusterSize);
  for (let index = 0; index < 32; index += 1) {
    if (((mask >>> index) & 1) === 0) bytes.fill(0, index * subcluster, (index + 1) * subcluster);
  }
  image.guest(guest.data, bytes);
  return image;
}

export function extendedCases(): HostileCase[] {
  const zeroDescriptor = make((image, entry) => image.u64(entry, image.bytes.readBigUInt64BE(entry) | 1n));
  const compressedBitmap = (bitmap: bigint): ImageBuilder =>
    make((image) => {
      const entry = image.l2At(guest.unallocated);
      const host = image.offsetOf(image.add());
      image.u64(entry, compressedFlag | BigInt(host)).u64(entry + 8, bitmap);
    });
  const whole: GuestRange[] = [];
  return [
    ...[1, 0x80000000, 0xffffffff].map((mask) =>
      broken(
        `subclusters 0x${mask.toString(16)} both allocated and zero`,
        make((image, entry) => image.u64(entry + 8, allocated(0xffffffff) | zero(mask))),
        guest.data,
      ),
    ),
    ...[1, 0x80000000, 0xffffffff].map((mask) =>
      broken(
        `subclusters 0x${mask.toString(16)} allocated without a host cluster`,
        unallocatedBitmap(allocated(mask)),
        guest.unallocated,
      ),
    ),
    broken('bit 0 of the descriptor, which is the zero flag of others', zeroDescriptor, guest.data, {
      stricterThanQemu: 'QEMU 7.2 masks the bit',
    }),
    broken('COPIED without a host cluster', unallocatedBitmap(0n, copied), guest.unallocated, {
      stricterThanQemu: 'QEMU reads the entry as unallocated; offset 0 is the header',
    }),
    broken('compressed with subclusters allocated', compressedBitmap(allocated(1)), guest.unallocated),
    broken('compressed with subclusters zero', compressedBitmap(zero(0xffffffff)), guest.unallocated),
    broken(
      'an offset inside a cluster',
      make((image, entry) => image.u64(entry, copied | BigInt(5 * clusterSize + 512))),
      guest.data,
    ),
    broken(
      'an offset in the L1 table',
      make((image, entry) => image.u64(entry, copied | BigInt(3 * clusterSize))),
      guest.data,
      {
        stricterThanQemu: 'QEMU reads metadata as guest data: invented content',
      },
    ),
    fine('all subclusters zero, no host cluster', unallocatedBitmap(zero(0xffffffff))),
    fine('some subclusters zero, no host cluster', unallocatedBitmap(zero(0x0f0f0f0f))),
    ...[1, 0x80000000, 0x55555555, 0x7fffffff].map((mask) =>
      fine(`subclusters 0x${mask.toString(16)} allocated, the rest stale`, partly(mask)),
    ),
    fine('half allocated, half zero', partly(0x0000ffff, 0xffff0000)),
    fine('a host cluster with nothing in it', partly(0), { broken: whole }),
    fine('a host cluster that is all zero', partly(0, 0xffffffff)),
  ];
}
