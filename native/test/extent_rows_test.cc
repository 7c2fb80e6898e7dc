// Extents as rows: of known entries, and of random ones cluster by cluster what the runs of the same table say.
#include "core/extent_rows.h"

#include <algorithm>
#include <vector>

#include "core/endian.h"
#include "core/l2_map.h"
#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Memory;
using test::Random;

constexpr L2Format kFormat = {16, false, true, false, true};
constexpr uint64_t kCluster = 0x10000;

void put(const ByteMemory& table, size_t index, uint64_t value) {
  storeBig(table.view().data() + index * 8, value);
}

struct Row {
  double start, length, type, host;
};

void checkRows(const ByteMemory& table, bool placed, const std::vector<Row>& expected) {
  Memory<double> out(kExtentStride * 16);
  const size_t count = mapExtents(kFormat, table, 0, table.size() / 8, kCluster, placed, out);
  CHECK_EQUAL(count, expected.size());
  for (size_t row = 0; row < expected.size(); ++row) {
    const size_t at = row * kExtentStride;
    CHECK_EQUAL(out[at], expected[row].start);
    CHECK_EQUAL(out[at + 1], expected[row].length);
    CHECK_EQUAL(out[at + 2], expected[row].type);
    CHECK_EQUAL(out[at + 3], 0);
    CHECK_EQUAL(out[at + 4], expected[row].host);
  }
}

TEST(joinsWhatQemuDoesNotTellApartAndEndsAtWhatIsInvalid) {
  ByteMemory table(8 * 8);
  put(table, 1, kCopied | 0x50000);
  put(table, 2, 0x60000);
  put(table, 3, kCompressed | uint64_t{2} << 54 | 0x81234);
  put(table, 4, kCompressed | uint64_t{2} << 54 | 0x91234);
  put(table, 5, 1);
  put(table, 6, 0x90200);
  checkRows(table, true,
            {{0x10000, 0x10000, 3, -1},
             {0x20000, 0x20000, 0, 0x50000},
             {0x40000, 0x20000, 1, -1},
             {0x60000, 0x10000, 2, -1},
             {0x70000, 0x10000, kInvalidExtent, 1}});
  checkRows(table, false,
            {{0x10000, 0x10000, 3, -1},
             {0x20000, 0x20000, 0, -1},
             {0x40000, 0x20000, 1, -1},
             {0x60000, 0x10000, 2, -1},
             {0x70000, 0x10000, kInvalidExtent, 1}});
}

TEST(saysOfEachClusterWhatTheRunsSay) {
  Random random(7);
  for (int round = 0; round < 200; ++round) {
    constexpr size_t kEntries = 700;
    ByteMemory table(kEntries * 8);
    for (size_t index = 0; index < kEntries; ++index) {
      const uint64_t kind = random.below(5);
      if (kind == 1) put(table, index, kCopied | (index + 1) * kCluster);
      if (kind == 2) put(table, index, 1);
      if (kind == 3) put(table, index, kCopied | (index + 1) * kCluster | 1);
      if (kind == 4) put(table, index, kCompressed | uint64_t{1} << 54 | (index + 1) * kCluster);
    }
    std::vector<double> wanted;
    Memory<double> runs(kRunStride * kEntries);
    const size_t count = mapL2(kFormat, table, 0, kEntries, runs);
    for (size_t run = 0; run < count; ++run) {
      const RunKind kind = static_cast<RunKind>(runs[run * kRunStride]);
      for (double at = 0; at < runs[run * kRunStride + 1]; at += kCluster) {
        const bool hasPlace = kind == RunKind::data || kind == RunKind::zeroAllocated;
        wanted.push_back(hasPlace ? runs[run * kRunStride + 2] + at : -1);
      }
    }
    std::vector<double> found;
    Memory<double> out(kExtentStride * (1 + random.below(40)));
    for (size_t index = 0; index < kEntries; index = found.size()) {
      const size_t rows = mapExtents(kFormat, table, index, kEntries - index, index * kCluster, true, out);
      CHECK(rows > 0);
      for (size_t row = 0; row < rows; ++row) {
        const size_t at = row * kExtentStride;
        CHECK_EQUAL(out[at], static_cast<double>(found.size() * kCluster));
        for (double part = 0; part < out[at + 1]; part += kCluster)
          found.push_back(out[at + 4] < 0 ? -1 : out[at + 4] + part);
      }
    }
    CHECK(found == wanted);
  }
}

}  // namespace
}  // namespace qcow2
