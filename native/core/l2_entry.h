// What one L2 entry says: the bits of the standard, compressed and extended descriptors, and which of them
// are valid.
#ifndef QCOW2_CORE_L2_ENTRY_H_
#define QCOW2_CORE_L2_ENTRY_H_

#include <cstdint>

#include "core/endian.h"
#include "core/span.h"

namespace qcow2 {

constexpr uint64_t kCopied = uint64_t{1} << 63;
constexpr uint64_t kCompressed = uint64_t{1} << 62;
constexpr uint64_t kZeroFlag = 1;
// Host offsets have bits 9 to 55.
constexpr uint64_t kHostEnd = uint64_t{1} << 56;
constexpr uint64_t kHostMask = kHostEnd - 512;
// Bits 1-8 and 56-61 of a standard descriptor.
constexpr uint64_t kReservedStandard = 0x3f000000000001fe;
constexpr unsigned kSubclusters = 32;
constexpr uint32_t kAllSubclusters = 0xffffffff;
constexpr uint64_t kSector = 512;

// How the entries of a table are to be read.
struct L2Format {
  unsigned clusterBits;
  // 16-byte entries with subcluster bitmaps.
  bool extended;
  // Version 3: bit 0 of a standard descriptor is the zero flag.
  bool zeroFlag;
  // Data lives in an external file: offset 0 with COPIED is a valid place, and nothing is compressed.
  bool externalData;
  // Do not split runs where only COPIED differs.
  bool ignoreCopied;

  uint64_t clusterSize() const { return uint64_t{1} << clusterBits; }
  unsigned subclusterBits() const { return extended ? clusterBits - 5 : clusterBits; }
  size_t entrySize() const { return extended ? 16 : 8; }
  // Bits that the host offset of a compressed descriptor takes; the sector count lies above them.
  unsigned compressedOffsetBits() const { return 62 - (clusterBits - 8); }
};

// In step with `InvalidEntry` of lib/native/l2.ts.
enum class InvalidEntry : uint8_t {
  reservedBits = 0,
  unalignedOffset = 1,
  zeroFlagInV2 = 2,
  subclusterBitmap = 3,
  compressedInDataFile = 4,
  copiedWithoutHost = 5,
  pastEnd = 6,
};

enum class EntryKind : uint8_t { standard, compressed, invalid };

struct L2Entry {
  EntryKind kind;
  // Only for an invalid entry.
  InvalidEntry reason;
  // A standard entry that has a host cluster (with external data it may be the one at offset 0).
  bool hasHost;
  bool copied;
  // Offset of the host cluster, or the byte where compressed data begins.
  uint64_t host;
  // Bytes of the host file that the entry lays claim to: a cluster, or those up to the end of the last sector
  // of compressed data. An invalid entry claims what it seems to mean, so that a check does not take that for
  // free.
  uint64_t hostLength;
  // One bit for each subcluster; without extended entries all 32 bits are alike.
  uint32_t allocated;
  uint32_t zero;
};

namespace detail {

inline L2Entry invalidEntry(InvalidEntry reason, uint64_t host, uint64_t hostLength) {
  return {EntryKind::invalid, reason, host != 0, false, host, host == 0 ? 0 : hostLength, 0, 0};
}

inline L2Entry decodeCompressed(const L2Format& format, uint64_t descriptor, uint64_t bitmap) {
  const unsigned offsetBits = format.compressedOffsetBits();
  const uint64_t offset = descriptor & ((uint64_t{1} << offsetBits) - 1);
  const uint64_t host = offset & (kHostEnd - 1);
  const uint64_t sectors = ((descriptor & (kCompressed - 1)) >> offsetBits) + 1;
  const uint64_t length = sectors * kSector - host % kSector;
  if (format.externalData) return invalidEntry(InvalidEntry::compressedInDataFile, host, length);
  if (offset != host) return invalidEntry(InvalidEntry::reservedBits, host, length);
  if (bitmap != 0) return invalidEntry(InvalidEntry::subclusterBitmap, host, length);
  return {EntryKind::compressed, InvalidEntry::reservedBits, true, false, host, length, 0, 0};
}

}  // namespace detail

// Decodes the entry whose first word is `descriptor` and, with extended entries, whose second is `bitmap`
// (else 0).
inline L2Entry decodeL2Entry(const L2Format& format, uint64_t descriptor, uint64_t bitmap) {
  if (descriptor & kCompressed) return detail::decodeCompressed(format, descriptor, bitmap);
  const uint64_t host = descriptor & kHostMask;
  const uint64_t cluster = format.clusterSize();
  const bool copied = (descriptor & kCopied) != 0;
  const bool zeroFlag = (descriptor & kZeroFlag) != 0;
  const auto invalid = [&](InvalidEntry reason) { return detail::invalidEntry(reason, host, cluster); };
  if ((descriptor & kReservedStandard) || (zeroFlag && format.extended))
    return invalid(InvalidEntry::reservedBits);
  if (host & (cluster - 1)) return invalid(InvalidEntry::unalignedOffset);
  if (zeroFlag && !format.zeroFlag) return invalid(InvalidEntry::zeroFlagInV2);
  const bool hasHost = host != 0 || (format.externalData && copied);
  if (copied && !hasHost) return invalid(InvalidEntry::copiedWithoutHost);

  L2Entry entry = {
      EntryKind::standard, InvalidEntry::reservedBits, hasHost, copied, host, hasHost ? cluster : 0, 0, 0};
  if (format.extended) {
    entry.allocated = static_cast<uint32_t>(bitmap);
    entry.zero = static_cast<uint32_t>(bitmap >> 32);
    const bool contradicts = (entry.allocated & entry.zero) || (entry.allocated && !hasHost);
    return contradicts ? invalid(InvalidEntry::subclusterBitmap) : entry;
  }
  if (zeroFlag) {
    entry.zero = kAllSubclusters;
  } else if (hasHost) {
    entry.allocated = kAllSubclusters;
  }
  return entry;
}

// The words of entry `index`; `table` must hold it.
inline uint64_t loadDescriptor(const L2Format& format, Bytes table, size_t index) {
  return loadBig<uint64_t>(table.data() + index * format.entrySize());
}
inline uint64_t loadBitmap(const L2Format& format, Bytes table, size_t index) {
  return format.extended ? loadBig<uint64_t>(table.data() + index * 16 + 8) : 0;
}

}  // namespace qcow2

#endif  // QCOW2_CORE_L2_ENTRY_H_
