// Bit sets beside a plain array of booleans, at every length and place.
#include "core/bit_set.h"

#include <vector>

#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Random;

bool has(Bytes bits, uint64_t index) { return (bits[index / 8] >> (index % 8) & 1) != 0; }

TEST(bitsAgreeWithAPlainArray) {
  Random random(7);
  for (const uint64_t length : {1u, 7u, 8u, 63u, 64u, 65u, 129u, 1000u}) {
    ByteMemory memory(static_cast<size_t>((length + 7) / 8));
    std::vector<bool> model(static_cast<size_t>(length));
    for (int round = 0; round < 300; ++round) {
      const uint64_t first = random.below(length + 1);
      const uint64_t end = first + random.below(length - first + 1);
      const bool value = random.below(2) == 1;
      setBits(memory, first, end, value);
      for (uint64_t at = first; at < end; ++at) model[static_cast<size_t>(at)] = value;

      const uint64_t from = random.below(length + 1);
      const uint64_t to = from + random.below(length - from + 1);
      uint64_t ones = 0;
      uint64_t next[2] = {to, to};
      for (uint64_t at = to; at-- > from;) {
        const bool bit = model[static_cast<size_t>(at)];
        CHECK(has(memory.view(), at) == bit);
        ones += bit ? 1 : 0;
        next[bit ? 1 : 0] = at;
      }
      CHECK_EQUAL(countBits(memory.view(), from, to), ones);
      CHECK_EQUAL(nextBit(memory.view(), from, to, true), next[1]);
      CHECK_EQUAL(nextBit(memory.view(), from, to, false), next[0]);
    }
  }
}

TEST(bitsAreCombined) {
  ByteMemory a(3);
  ByteMemory b(3);
  const auto reset = [&] {
    a[0] = 0x0f, a[1] = 0xff, a[2] = 0;
    b[0] = 0x3c, b[1] = 0, b[2] = 0xff;
  };
  reset();
  combineBits(a, b, BitOperation::kUnite);
  CHECK_EQUAL(a[0], 0x3f);
  CHECK_EQUAL(a[1], 0xff);
  CHECK_EQUAL(a[2], 0xff);
  reset();
  combineBits(a, b, BitOperation::kIntersect);
  CHECK_EQUAL(a[0], 0x0c);
  CHECK_EQUAL(a[1], 0);
  CHECK_EQUAL(a[2], 0);
  reset();
  combineBits(a, b, BitOperation::kSubtract);
  CHECK_EQUAL(a[0], 0x03);
  CHECK_EQUAL(a[1], 0xff);
  CHECK_EQUAL(a[2], 0);
}

}  // namespace
}  // namespace qcow2
