// Extents as JSON: the longest text fits, and what is no extent is refused.
#include "core/extent_json.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Memory;

constexpr double kSafe = 9007199254740991;

TEST(writesTheLargestExtentWithinItsRoom) {
  for (int type = 0; type < 5; ++type) {
    Memory<double> extent(kExtentStride);
    const double values[] = {kSafe, kSafe, static_cast<double>(type), 4294967295, kSafe};
    std::copy(std::begin(values), std::end(values), extent.view().data());
    CHECK(areExtents(extent.view()));
    ByteMemory out(kMaxExtentJson);
    CHECK(writeExtentJson(extent.view(), out) < kMaxExtentJson);
  }
}

TEST(refusesWhatIsNoExtent) {
  const double good[] = {0, 512, 0, 0, -1};
  const double bad[] = {-2, 0.5, kSafe * 2, std::nan(""), INFINITY};
  for (size_t column = 0; column < kExtentStride; ++column) {
    for (const double value : bad) {
      Memory<double> extent(kExtentStride);
      std::copy(std::begin(good), std::end(good), extent.view().data());
      CHECK(areExtents(extent.view()));
      extent.view()[column] = value;
      CHECK(!areExtents(extent.view()));
    }
  }
  Memory<double> cut(kExtentStride - 1);
  CHECK(!areExtents(cut.view()));
}

}  // namespace
}  // namespace qcow2
