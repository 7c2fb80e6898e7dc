// Finding the zeros in data.
#ifndef QCOW2_CORE_ZERO_H_
#define QCOW2_CORE_ZERO_H_

#include "core/span.h"

namespace qcow2 {

// Whether every byte is 0.
bool isZero(Bytes data);

// Whether two views of the same length have the same bytes; an empty one stands for zeros.
bool isSame(Bytes a, Bytes b);

// Splits data into alternating runs of non-zero and zero blocks of `granularity` bytes (not 0; the last block
// may be shorter). Writes the end offset of each run to `out`, the first run being non-zero and perhaps
// empty; returns how many. Stops early when `out` is full.
size_t zeroRuns(Bytes data, size_t granularity, Span<double> out);

}  // namespace qcow2

#endif  // QCOW2_CORE_ZERO_H_
