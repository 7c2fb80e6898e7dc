// Translating a stretch of an L2 table into extents as rows of numbers.
#include "core/extent_rows.h"

#include <algorithm>
#include <array>

#include "core/l2_map.h"

namespace qcow2 {
namespace {

ExtentType typeOf(RunKind kind) {
  switch (kind) {
    case RunKind::data:
      return ExtentType::data;
    case RunKind::compressed:
      return ExtentType::compressed;
    case RunKind::zero:
    case RunKind::zeroAllocated:
      return ExtentType::zero;
    case RunKind::unallocated:
    case RunKind::unallocatedInCluster:
    case RunKind::invalid:
      break;
  }
  return ExtentType::unallocated;
}

// Whether a kind of run has a place that is told: data, or space set aside.
bool isPlaced(RunKind kind) {
  return kind == RunKind::data || kind == RunKind::zeroAllocated || kind == RunKind::unallocatedInCluster;
}

// Joins a row to those before it. `out` has room for it.
class RowWriter {
 public:
  explicit RowWriter(Span<double> out) : out_(out) {}

  void add(double start, double length, double type, double host) {
    if (count_ != 0 && goesOn(type, host)) {
      last(1) += length;
      return;
    }
    ++count_;
    last(0) = start;
    last(1) = length;
    last(2) = type;
    last(3) = 0;
    last(4) = host;
  }

  size_t count() const { return count_; }
  size_t room() const { return out_.size() / kExtentStride - count_; }

 private:
  double& last(size_t column) { return out_[(count_ - 1) * kExtentStride + column]; }

  bool goesOn(double type, double host) {
    if (last(2) != type) return false;
    return last(4) < 0 || host < 0 ? last(4) == host : last(4) + last(1) == host;
  }

  Span<double> out_;
  size_t count_ = 0;
};

}  // namespace

size_t mapExtents(const L2Format& format, Bytes table, size_t first, size_t count, uint64_t start, bool placed,
                  Span<double> out) {
  std::array<double, 256 * kRunStride> runs;
  RowWriter rows(out);
  double at = static_cast<double>(start);
  for (size_t index = first; index < first + count && rows.room() >= maxRunsPerEntry(format);) {
    const size_t room = std::min(runs.size() / kRunStride, rows.room()) * kRunStride;
    const size_t found =
        mapL2(format, table, index, first + count - index, Span<double>(runs.data(), room));
    for (size_t run = 0; run < found; ++run) {
      const double* const parts = &runs[run * kRunStride];
      const RunKind kind = static_cast<RunKind>(parts[0]);
      if (kind == RunKind::invalid) {
        rows.add(at, parts[1], kInvalidExtent, parts[3]);
        return rows.count();
      }
      rows.add(at, parts[1], static_cast<double>(typeOf(kind)), placed && isPlaced(kind) ? parts[2] : -1);
      at += parts[1];
    }
    index = first + static_cast<size_t>((at - static_cast<double>(start)) / static_cast<double>(format.clusterSize()));
  }
  return rows.count();
}

}  // namespace qcow2
