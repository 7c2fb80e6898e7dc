// Changing the entries of an L2 table: data, zero, unallocated, compressed.
#include "core/l2_set.h"

#include <algorithm>

namespace qcow2 {
namespace {

void store(const L2Format& format, MutableBytes table, size_t index, uint64_t descriptor, uint64_t bitmap) {
  unsigned char* at = table.data() + index * format.entrySize();
  storeBig(at, descriptor);
  if (format.extended) storeBig(at + 8, bitmap);
}

// Calls change(index, covered) for each entry the range touches, `covered` being a mask of its subclusters
// (all of them for a standard entry).
template <typename Change>
void forEachEntry(const L2Format& format, GuestRange range, const Change& change) {
  const uint64_t end = range.start + range.length;
  for (uint64_t at = range.start; at < end;) {
    const uint64_t index = at >> format.clusterBits;
    const uint64_t base = index << format.clusterBits;
    const uint64_t stop = std::min(end, base + format.clusterSize());
    uint32_t covered = kAllSubclusters;
    if (format.extended) {
      const auto from = static_cast<unsigned>((at - base) >> format.subclusterBits());
      const auto to = static_cast<unsigned>((stop - base) >> format.subclusterBits());
      covered = static_cast<uint32_t>(((uint64_t{1} << to) - 1) & ~((uint64_t{1} << from) - 1));
    }
    change(static_cast<size_t>(index), covered);
    at = stop;
  }
}

MutableBytes entriesOf(const L2Format& format, MutableBytes table, GuestRange range) {
  const uint64_t end = range.start + range.length;
  const uint64_t entries = (end + format.clusterSize() - 1) >> format.clusterBits;
  return table.subspan(0, static_cast<size_t>(entries) * format.entrySize());
}

uint64_t bitmapOf(uint64_t allocated, uint64_t zero) { return allocated | zero << 32; }

}  // namespace

void l2SetData(const L2Format& format, MutableBytes table, GuestRange range, uint64_t host) {
  const MutableBytes entries = entriesOf(format, table, range);
  uint64_t place = host;
  if (!format.extended) {
    // Nothing of what was there before stays.
    unsigned char* const end = entries.data() + entries.size();
    for (unsigned char* at = entries.data() + (range.start >> format.clusterBits) * 8; at < end; at += 8) {
      storeBig(at, place | kCopied);
      place += format.clusterSize();
    }
    return;
  }
  forEachEntry(format, range, [&](size_t index, uint32_t covered) {
    const bool compressed = (loadDescriptor(format, entries, index) & kCompressed) != 0;
    const uint64_t bitmap = compressed ? 0 : loadBitmap(format, entries, index);
    const uint64_t allocated = (bitmap & kAllSubclusters) | covered;
    const uint64_t zero = (bitmap >> 32) & ~uint64_t{covered};
    store(format, entries, index, place | kCopied, bitmapOf(allocated, zero));
    place += format.clusterSize();
  });
}

void l2SetZero(const L2Format& format, MutableBytes table, GuestRange range, bool keepHost) {
  const MutableBytes entries = entriesOf(format, table, range);
  forEachEntry(format, range, [&](size_t index, uint32_t covered) {
    const uint64_t old = loadDescriptor(format, entries, index);
    const bool compressed = (old & kCompressed) != 0;
    const bool drops = compressed || (covered == kAllSubclusters && !keepHost);
    const uint64_t place = drops ? 0 : old & (kHostMask | kCopied);
    if (!format.extended) {
      store(format, entries, index, place | kZeroFlag, 0);
      return;
    }
    const uint64_t bitmap = compressed ? 0 : loadBitmap(format, entries, index);
    const uint64_t allocated = bitmap & kAllSubclusters & ~covered;
    store(format, entries, index, place, bitmapOf(allocated, (bitmap >> 32) | covered));
  });
}

void l2SetUnallocated(const L2Format& format, MutableBytes table, GuestRange range) {
  const MutableBytes entries = entriesOf(format, table, range);
  forEachEntry(format, range, [&](size_t index, uint32_t covered) {
    const uint64_t old = loadDescriptor(format, entries, index);
    if (covered == kAllSubclusters || (old & kCompressed)) {
      store(format, entries, index, 0, 0);
      return;
    }
    const uint64_t bitmap = loadBitmap(format, entries, index);
    const uint32_t kept = ~covered;
    store(format, entries, index, old, bitmap & bitmapOf(kept, kept));
  });
}

uint64_t maxCompressedLength(const L2Format& format, uint64_t host) {
  const uint64_t sectors = uint64_t{1} << (format.clusterBits - 8);
  return sectors * kSector - host % kSector;
}

void l2SetCompressed(const L2Format& format, MutableBytes table, size_t index, uint64_t host,
                     uint64_t length) {
  const MutableBytes entries = table.subspan(0, (index + 1) * format.entrySize());
  const uint64_t extraSectors = (host % kSector + length - 1) / kSector;
  store(format, entries, index, kCompressed | extraSectors << format.compressedOffsetBits() | host, 0);
}

}  // namespace qcow2
