// Places beside a plain map of bytes: nothing is given out twice, and streams go behind one another.
#include "core/places.h"

#include <map>
#include <vector>

#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::Random;

constexpr int64_t kBlock = 512;

TEST(streamsAreNeverOverAnythingElse) {
  for (uint32_t seed = 1; seed < 60; ++seed) {
    Random random(seed);
    const PackingLimits limits = {static_cast<int64_t>(1 + random.below(5)),
                                  static_cast<int64_t>(1 + random.below(Places::kMostAhead))};
    std::vector<HostRange> ranges;
    int64_t at = kBlock;
    int64_t room = 0;
    for (int i = 0; i < 6; ++i) {
      at += static_cast<int64_t>(random.below(3)) * kBlock;
      const int64_t length = static_cast<int64_t>(1 + random.below(40)) * kBlock;
      ranges.push_back({at, length});
      at += length;
      room += length / kBlock;
    }
    Places places(ranges, kBlock, {}, limits);
    // What each byte belongs to, and how many streams each block.
    std::map<int64_t, int> bytes;
    std::map<int64_t, int64_t> shares;
    const auto inside = [&](int64_t start, int64_t length) {
      int64_t covered = 0;
      for (const HostRange& range : ranges) {
        for (int64_t byte = start; byte < start + length; ++byte) {
          if (byte >= range.position && byte < range.position + range.length) ++covered;
        }
      }
      return covered == length;
    };
    for (int64_t left = room - Places::kMostAhead; left > 0; --left) {
      const bool whole = random.below(3) == 0;
      const auto length = whole ? kBlock : static_cast<int64_t>(1 + random.below(kBlock - 1));
      const int64_t start = whole ? places.takeBlocks(kBlock).position : places.takeBytes(length);
      CHECK(start > 0);
      CHECK(inside(start, length));
      if (whole) CHECK(start % kBlock == 0);
      for (int64_t byte = start; byte < start + length; ++byte) CHECK(bytes[byte]++ == 0);
      if (whole) continue;
      for (int64_t block = start / kBlock; block <= (start + length - 1) / kBlock; ++block) {
        CHECK(++shares[block] <= limits.shares);
      }
    }
    CHECK(places.area().blocks >= static_cast<int64_t>(shares.size()));
  }
}

TEST(streamsFillTheirBlocks) {
  Places places({{4096, 100 * kBlock}}, kBlock, {}, {1000, 64});
  for (int64_t i = 0; i < 400; ++i) CHECK_EQUAL(static_cast<uint64_t>(places.takeBytes(100)), 4096u + 100u * i);
  // Whole blocks come behind what streams have ahead, or there is nothing left.
  const HostRange block = places.takeBlocks(kBlock);
  CHECK(block.length == 0 || block.position >= places.area().end);
}

TEST(nothingIsLeftInTheEnd) {
  Places places({{kBlock, kBlock}}, kBlock, {}, {1, 1});
  CHECK(places.takeBytes(10) == kBlock);
  CHECK(places.takeBytes(10) == -1);
  CHECK(places.takeBlocks(kBlock).length == 0);
}

}  // namespace
}  // namespace qcow2
