// The arguments that tell how an L2 table is to be read: flags, clusterBits, and the table itself.
#ifndef QCOW2_BINDING_L2_FORMAT_H_
#define QCOW2_BINDING_L2_FORMAT_H_

#include <algorithm>

#include "binding/arguments.h"
#include "core/l2_entry.h"

namespace qcow2::binding {

constexpr int64_t kMinClusterBits = 9;
constexpr int64_t kMaxClusterBits = 21;
constexpr int64_t kMinExtendedClusterBits = 14;

// `flags` are those of `L2Flag` in lib/native.ts.
inline L2Format l2Format(uint64_t flags, int64_t clusterBits) {
  return {static_cast<unsigned>(clusterBits), (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0,
          (flags & 8) != 0};
}

inline L2Format takeL2Format(Arguments& args, size_t flagsIndex, size_t clusterBitsIndex) {
  const uint64_t flags = args.natural(flagsIndex, "flags", 15);
  const bool extended = (flags & 1) != 0;
  const int64_t least = extended ? kMinExtendedClusterBits : kMinClusterBits;
  const int64_t bits = args.integer(clusterBitsIndex, "clusterBits", least, kMaxClusterBits);
  // A shape that is safe to compute with, even though the caller must give up.
  return l2Format(flags, args.failed() ? kMaxClusterBits : bits);
}

// A table or a slice of one: whole entries, at most a cluster.
inline MutableBytes takeL2Table(Arguments& args, size_t index, const L2Format& format) {
  const MutableBytes table = args.bytes(index, "table");
  args.requireRange(table.size() % format.entrySize() == 0, "table.length",
                    "a multiple of " + std::to_string(format.entrySize()) + " bytes");
  args.requireRange(table.size() <= format.clusterSize(), "table.length", "at most one cluster");
  return table;
}

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_L2_FORMAT_H_
