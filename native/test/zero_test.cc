// Zero detection at every length and place.
#include "core/zero.h"

#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Memory;

TEST(seesEveryByte) {
  for (size_t length = 0; length < 800; length += 1 + length / 16) {
    ByteMemory memory(length);
    CHECK(isZero(memory));
    for (size_t at = 0; at < length; ++at) {
      memory[at] = 0x80;
      CHECK(!isZero(memory));
      memory[at] = 0;
    }
  }
}

TEST(takesNothingForZeros) {
  ByteMemory zeros(100);
  ByteMemory memory(100);
  memory[99] = 1;
  CHECK(isSame(zeros, Bytes()) && isSame(Bytes(), zeros) && isSame(Bytes(), Bytes()));
  CHECK(!isSame(memory, Bytes()) && !isSame(Bytes(), memory) && !isSame(memory, zeros));
  zeros[99] = 1;
  CHECK(isSame(memory, zeros));
}

TEST(endsRunsAtBlocks) {
  ByteMemory memory(1000);
  memory[300] = 1;
  memory[999] = 1;
  Memory<double> out(8);
  CHECK_EQUAL(zeroRuns(memory, 100, out), 5);
  const double expected[] = {0, 300, 400, 900, 1000};
  for (size_t at = 0; at < 5; ++at) CHECK_EQUAL(out[at], expected[at]);
}

}  // namespace
}  // namespace qcow2
