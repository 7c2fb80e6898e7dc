// Refcounts of 1 to 64 bits in a refcount block.
#ifndef QCOW2_CORE_REFCOUNT_H_
#define QCOW2_CORE_REFCOUNT_H_

#include <cstdint>

#include "core/span.h"

namespace qcow2 {

constexpr unsigned kMaxRefcountOrder = 6;

// The largest refcount of a width of 2^order bits.
constexpr uint64_t maxRefcount(unsigned order) {
  return order == 6 ? ~uint64_t{0} : (uint64_t{1} << (1u << order)) - 1;
}

constexpr uint64_t refcountsIn(uint64_t bytes, unsigned order) { return (bytes << 3) >> order; }

// In all of these the indexes must lie inside the block.
uint64_t refcountGet(Bytes block, unsigned order, size_t index);
void refcountSet(MutableBytes block, unsigned order, size_t first, size_t count, uint64_t value);

constexpr size_t kAllAdded = SIZE_MAX;
// Adds (or subtracts) `magnitude`. When a refcount would leave its range nothing is changed and its index is
// returned.
size_t refcountAdd(MutableBytes block, unsigned order, size_t first, size_t count, bool subtract,
                   uint64_t magnitude);

// The first index in [first, end) whose refcount is 0 / is not 0, else `end`.
size_t refcountNextFree(Bytes block, unsigned order, size_t first, size_t end);
size_t refcountNextUsed(Bytes block, unsigned order, size_t first, size_t end);

// Where the run of refcounts that equal the one at `first`, which is below `end`, is over; at most `end`.
size_t refcountRunEnd(Bytes block, unsigned order, size_t first, size_t end);

// How many refcounts in [first, end) are not 0.
size_t refcountCountUsed(Bytes block, unsigned order, size_t first, size_t end);

}  // namespace qcow2

#endif  // QCOW2_CORE_REFCOUNT_H_
