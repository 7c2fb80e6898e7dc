// The arguments that tell how an L2 table is to be read: flags, clusterBits, and the table itself.
#ifndef QCOW2_BINDING_L2_FORMAT_H_
#define QCOW2_BINDING_L2_FORMAT_H_

#include <cstdint>
#include <string>

#include "binding/arguments.h"
#include "core/l2_entry.h"

namespace qcow2::binding {

constexpr unsigned kMinClusterBits = 9;
constexpr unsigned kMaxClusterBits = 21;
constexpr unsigned kMinExtendedClusterBits = 14;

constexpr uint64_t kMaxL2Flags = 15;

// `flags` are those of `L2Flag` in lib/native/l2.ts.
inline L2Format l2Format(uint64_t flags, uint64_t clusterBits) {
  return {static_cast<unsigned>(clusterBits), (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0,
          (flags & 8) != 0};
}

// For cluster bits that are known to be valid but for extended entries.
inline L2Format l2FormatFor(Arguments& args, uint64_t flags, unsigned clusterBits) {
  const L2Format format = l2Format(flags, clusterBits);
  args.requireRange(!format.extended || clusterBits >= kMinExtendedClusterBits, "clusterBits",
                    "at least 14 for extended L2 entries");
  return format;
}

inline L2Format takeL2Format(Arguments& args, size_t flagsIndex, size_t clusterBitsIndex) {
  const uint64_t flags = args.natural(flagsIndex, "flags", kMaxL2Flags);
  const int64_t bits = args.integer(clusterBitsIndex, "clusterBits", kMinClusterBits, kMaxClusterBits);
  // When an argument was wrong, a shape that is safe to compute with, even though the caller must give up.
  return l2FormatFor(args, flags, args.failed() ? kMaxClusterBits : static_cast<unsigned>(bits));
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
