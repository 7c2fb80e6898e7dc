// Translating a stretch of an L2 table into extents as rows of numbers.
#ifndef QCOW2_CORE_EXTENT_ROWS_H_
#define QCOW2_CORE_EXTENT_ROWS_H_

#include "core/extent_json.h"
#include "core/l2_entry.h"

namespace qcow2 {

// The type of the row that an invalid entry makes; the place for the host offset has the reason then.
constexpr double kInvalidExtent = -1;

// Writes the extents of entries [first, first + count), the first of which describes guest bytes from `start` on,
// to `out` as rows of depth 0 with neighbours joined, and returns how many there are. An invalid entry ends them with
// a row of its own. Stops early, between two entries, when `out` has no room for what the next one may need, which is
// maxRunsPerEntry. Only extents of a disk whose data is as it is in the file (`placed`) have a host offset. `table` must
// hold the entries.
size_t mapExtents(const L2Format& format, Bytes table, size_t first, size_t count, uint64_t start, bool placed,
                  Span<double> out);

}  // namespace qcow2

#endif  // QCOW2_CORE_EXTENT_ROWS_H_
