// Refcount blocks of every width: known bytes, and random operations beside a plain array.
#include "core/refcount.h"

#include <vector>

#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Random;

TEST(laysOutNarrowRefcountsFromTheLeastSignificantBit) {
  ByteMemory block(8);
  refcountSet(block, 0, 9, 1, 1);
  CHECK_EQUAL(block[1], 0x02);
  refcountSet(block, 1, 7, 1, 2);
  CHECK_EQUAL(block[1], 0x82);
  refcountSet(block, 2, 4, 1, 0xc);
  CHECK_EQUAL(block[2], 0x0c);
  refcountSet(block, 4, 3, 1, 0x1234);
  CHECK_EQUAL(block[6], 0x12);
  CHECK_EQUAL(block[7], 0x34);
}

// A block and what it should hold.
struct Pair {
  ByteMemory block;
  std::vector<uint64_t> model;
};

void checkSearch(const Pair& pair, unsigned order, size_t first, size_t end) {
  size_t isFree = first;
  while (isFree < end && pair.model[isFree] != 0) ++isFree;
  size_t isUsed = first;
  while (isUsed < end && pair.model[isUsed] == 0) ++isUsed;
  CHECK_EQUAL(refcountNextFree(pair.block, order, first, end), isFree);
  CHECK_EQUAL(refcountNextUsed(pair.block, order, first, end), isUsed);
  if (first < end) {
    size_t runEnd = first;
    while (runEnd < end && pair.model[runEnd] == pair.model[first]) ++runEnd;
    CHECK_EQUAL(refcountRunEnd(pair.block, order, first, end), runEnd);
  }
  size_t used = 0;
  for (size_t index = first; index < end; ++index) used += pair.model[index] != 0;
  CHECK_EQUAL(refcountCountUsed(pair.block, order, first, end), used);
}

void addInModel(Pair& pair, unsigned order, size_t first, size_t count, bool subtract, uint64_t magnitude) {
  size_t stuck = kAllAdded;
  for (size_t index = first + count; index-- > first;) {
    const uint64_t room = subtract ? pair.model[index] : maxRefcount(order) - pair.model[index];
    if (magnitude > room) stuck = index;
  }
  CHECK_EQUAL(refcountAdd(pair.block, order, first, count, subtract, magnitude), stuck);
  if (stuck != kAllAdded) return;
  for (size_t index = first; index < first + count; ++index) {
    pair.model[index] = subtract ? pair.model[index] - magnitude : pair.model[index] + magnitude;
  }
}

TEST(followsAnArrayThroughRandomOperations) {
  Random random(2);
  for (unsigned order = 0; order <= kMaxRefcountOrder; ++order) {
    const size_t entries = static_cast<size_t>(refcountsIn(64, order));
    Pair pair = {ByteMemory(64), std::vector<uint64_t>(entries)};
    for (int round = 0; round < 3000; ++round) {
      const size_t first = random.below(entries + 1);
      const size_t count = random.below(entries - first + 1);
      switch (random.below(4)) {
        case 0: {
          const uint64_t value = random.below(2) * (random.next() & maxRefcount(order));
          refcountSet(pair.block, order, first, count, value);
          for (size_t index = first; index < first + count; ++index) pair.model[index] = value;
          break;
        }
        case 1:
          addInModel(pair, order, first, count, random.below(2) == 1, random.below(3));
          break;
        default:
          checkSearch(pair, order, first, first + count);
      }
      for (size_t index = 0; index < entries; ++index) {
        CHECK_EQUAL(refcountGet(pair.block, order, index), pair.model[index]);
      }
    }
  }
}

}  // namespace
}  // namespace qcow2
