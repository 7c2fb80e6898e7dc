// Changing the entries of an L2 table: data, zero, unallocated, compressed.
#ifndef QCOW2_CORE_L2_SET_H_
#define QCOW2_CORE_L2_SET_H_

#include "core/l2_entry.h"

namespace qcow2 {

// Guest bytes relative to the first entry of a table; multiples of the subcluster (of the cluster without
// extended entries), and inside the table.
struct GuestRange {
  uint64_t start;
  uint64_t length;
};

// Makes a range data in consecutive host clusters with COPIED; the cluster that contains `range.start` lies
// at `host`. The state of subclusters outside the range is kept, except that those of a compressed entry
// become unallocated.
void l2SetData(const L2Format& format, MutableBytes table, GuestRange range, uint64_t host);

// Makes a range read as zeros. Whole clusters drop their host cluster unless `keepHost`; partly covered ones
// keep it; compressed entries always lose it.
void l2SetZero(const L2Format& format, MutableBytes table, GuestRange range, bool keepHost);

// Makes a range unallocated. Whole clusters drop their host cluster, partly covered ones keep it.
void l2SetUnallocated(const L2Format& format, MutableBytes table, GuestRange range);

// The largest length of compressed data that a descriptor can tell when it begins at `host`.
uint64_t maxCompressedLength(const L2Format& format, uint64_t host);

// Makes entry `index` a compressed cluster; `length` is 1 to maxCompressedLength.
void l2SetCompressed(const L2Format& format, MutableBytes table, size_t index, uint64_t host,
                     uint64_t length);

}  // namespace qcow2

#endif  // QCOW2_CORE_L2_SET_H_
