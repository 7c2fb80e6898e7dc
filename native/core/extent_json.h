// The extents of a disk as lines of JSON, as `qemu-img map` prints them.
#ifndef QCOW2_CORE_EXTENT_JSON_H_
#define QCOW2_CORE_EXTENT_JSON_H_

#include <cstdint>

#include "core/span.h"

namespace qcow2 {

// Numbers per extent: start, length, type (an ExtentType), depth, host offset or -1. In step with
// `ExtentColumn` of lib/io/extent-rows.ts.
constexpr size_t kExtentStride = 5;

// `dataInHole` is data to an image in a hole of its file.
enum class ExtentType : uint8_t { data = 0, compressed = 1, zero = 2, unallocated = 3, dataInHole = 4 };

// Bytes that the text of one extent has at most.
constexpr size_t kMaxExtentJson = 192;

// Whether all numbers of the extents are whole and within their range.
bool areExtents(Span<const double> extents);

// Writes each extent as `,\n` and an object; returns the bytes written. `extents` are as areExtents() wants
// them, and `out` has room for kMaxExtentJson bytes each.
size_t writeExtentJson(Span<const double> extents, MutableBytes out);

}  // namespace qcow2

#endif  // QCOW2_CORE_EXTENT_JSON_H_
