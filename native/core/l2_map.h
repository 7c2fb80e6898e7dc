// Translating a stretch of an L2 table into merged runs.
#ifndef QCOW2_CORE_L2_MAP_H_
#define QCOW2_CORE_L2_MAP_H_

#include "core/l2_entry.h"

namespace qcow2 {

// In step with `RunKind` of lib/native/l2.ts.
enum class RunKind : uint8_t {
  unallocated = 0,
  zero = 1,
  zeroAllocated = 2,
  data = 3,
  compressed = 4,
  unallocatedInCluster = 5,
  invalid = 6,
};

// Numbers per run: kind, length in guest bytes, host offset, aux.
constexpr size_t kRunStride = 4;
// A single entry never needs more runs than this.
constexpr size_t maxRunsPerEntry(const L2Format& format) { return format.extended ? kSubclusters : 1; }

// Writes the runs of entries [first, first + count) to `out`, which must have room for maxRunsPerEntry, and
// returns how many there are. Stops early, between two entries, when `out` has no room for the next entry.
// `table` must hold the entries.
size_t mapL2(const L2Format& format, Bytes table, size_t first, size_t count, Span<double> out);

}  // namespace qcow2

#endif  // QCOW2_CORE_L2_MAP_H_
