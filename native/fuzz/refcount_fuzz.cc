// libFuzzer: changing and searching refcounts of every width does what reading and writing them bit by bit
// does.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <vector>

#include "core/refcount.h"

namespace {

using namespace qcow2;

// The specification's words, a bit at a time: narrow refcounts fill a byte from its lowest bit, wide ones are
// big-endian.
uint64_t plainGet(const std::vector<unsigned char>& block, unsigned order, size_t index) {
  const size_t bits = size_t{1} << order;
  uint64_t value = 0;
  if (bits < 8) {
    for (size_t bit = 0; bit < bits; ++bit) {
      const size_t at = index * bits + bit;
      value |= uint64_t{(block[at / 8] >> (at % 8)) & 1u} << bit;
    }
    return value;
  }
  for (size_t byte = 0; byte < bits / 8; ++byte) value = value << 8 | block[index * bits / 8 + byte];
  return value;
}

std::vector<uint64_t> plainAll(const std::vector<unsigned char>& block, unsigned order) {
  std::vector<uint64_t> counts;
  for (size_t index = 0; index < refcountsIn(block.size(), order); ++index) {
    counts.push_back(plainGet(block, order, index));
  }
  return counts;
}

size_t plainFind(const std::vector<uint64_t>& counts, size_t first, size_t end, bool free) {
  for (size_t index = first; index < end; ++index) {
    if ((counts[index] == 0) == free) return index;
  }
  return end;
}

// What adding should leave behind, and what it should answer.
size_t plainAdd(std::vector<uint64_t>& counts, unsigned order, size_t first, size_t count, bool subtract,
                uint64_t magnitude) {
  for (size_t index = first; index < first + count; ++index) {
    const uint64_t room = subtract ? counts[index] : maxRefcount(order) - counts[index];
    if (magnitude > room) return index;
  }
  for (size_t index = first; index < first + count; ++index) {
    counts[index] = subtract ? counts[index] - magnitude : counts[index] + magnitude;
  }
  return kAllAdded;
}

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto order = input.ConsumeIntegralInRange<unsigned>(0, kMaxRefcountOrder);
  const size_t words = input.ConsumeIntegralInRange<size_t>(1, 16);
  std::vector<unsigned char> block = input.ConsumeBytes<unsigned char>(words * 8);
  block.resize(words * 8);
  std::vector<uint64_t> counts = plainAll(block, order);
  const MutableBytes view{block.data(), block.size()};
  for (int step = 0; step < 16 && input.remaining_bytes() > 0; ++step) {
    const size_t first = input.ConsumeIntegralInRange<size_t>(0, counts.size());
    const size_t count = input.ConsumeIntegralInRange<size_t>(0, counts.size() - first);
    const uint64_t value =
        input.ConsumeBool() ? input.ConsumeIntegral<uint8_t>() : input.ConsumeIntegral<uint64_t>();
    switch (input.ConsumeIntegralInRange<int>(0, 3)) {
      case 0: {
        const bool subtract = input.ConsumeBool();
        const size_t answer = refcountAdd(view, order, first, count, subtract, value);
        require(answer == plainAdd(counts, order, first, count, subtract, value));
        break;
      }
      case 1:
        refcountSet(view, order, first, count, value & maxRefcount(order));
        for (size_t index = first; index < first + count; ++index) counts[index] = value & maxRefcount(order);
        break;
      case 2:
        require(refcountNextFree(view, order, first, first + count) ==
                plainFind(counts, first, first + count, true));
        break;
      default:
        require(refcountNextUsed(view, order, first, first + count) ==
                plainFind(counts, first, first + count, false));
    }
    require(plainAll(block, order) == counts);
  }
  for (size_t index = 0; index < counts.size(); ++index) {
    require(refcountGet(view, order, index) == counts[index]);
  }
  return 0;
}
