// What an L2 table means, one subcluster at a time: the plain reading that fuzz targets hold fast code
// against.
#ifndef QCOW2_FUZZ_EXPAND_H_
#define QCOW2_FUZZ_EXPAND_H_

#include <vector>

#include "core/l2_map.h"

namespace qcow2::fuzz {

struct Piece {
  RunKind kind;
  uint64_t host;
  uint64_t aux;
};

inline bool hasPlace(RunKind kind) {
  return kind == RunKind::data || kind == RunKind::zeroAllocated || kind == RunKind::unallocatedInCluster;
}

inline bool operator==(const Piece& a, const Piece& b) {
  return a.kind == b.kind && a.host == b.host && a.aux == b.aux;
}

inline Piece pieceOf(const L2Format& format, const L2Entry& entry, unsigned subcluster) {
  if (entry.kind == EntryKind::compressed) return {RunKind::compressed, entry.host, entry.hostLength};
  if (entry.kind == EntryKind::invalid) return {RunKind::invalid, 0, static_cast<uint64_t>(entry.reason)};
  const bool allocated = ((entry.allocated >> subcluster) & 1) != 0;
  const bool zero = ((entry.zero >> subcluster) & 1) != 0;
  RunKind kind = entry.hasHost ? RunKind::unallocatedInCluster : RunKind::unallocated;
  if (zero) kind = entry.hasHost ? RunKind::zeroAllocated : RunKind::zero;
  if (allocated) kind = RunKind::data;
  const uint64_t host = entry.host + (uint64_t{subcluster} << format.subclusterBits());
  return {kind, hasPlace(kind) ? host : 0, entry.copied && !format.ignoreCopied};
}

// The pieces of one entry: 32 with extended entries, else one.
inline std::vector<Piece> expandEntry(const L2Format& format, Bytes table, size_t index) {
  const L2Entry entry =
      decodeL2Entry(format, loadDescriptor(format, table, index), loadBitmap(format, table, index));
  std::vector<Piece> pieces;
  for (unsigned at = 0; at < (format.extended ? kSubclusters : 1); ++at) {
    pieces.push_back(pieceOf(format, entry, at));
  }
  return pieces;
}

inline L2Format formatFrom(uint8_t bits, uint8_t clusterBits) {
  L2Format format{};
  format.extended = (bits & 1) != 0;
  format.zeroFlag = (bits & 2) != 0 || format.extended;
  format.externalData = (bits & 4) != 0 && format.zeroFlag;
  format.ignoreCopied = (bits & 8) != 0;
  const unsigned least = format.extended ? 14 : 9;
  format.clusterBits = least + clusterBits % (22 - least);
  return format;
}

}  // namespace qcow2::fuzz

#endif  // QCOW2_FUZZ_EXPAND_H_
