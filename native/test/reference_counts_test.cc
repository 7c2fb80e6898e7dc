// Counting references: page borders, widening, the limit, and any bits at all in the tables.
#include "core/reference_counts.h"

#include "core/refcount.h"
#include "core/reference_blocks.h"
#include "core/reference_tables.h"
#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Memory;
using test::Random;

constexpr uint64_t kPlenty = uint64_t{1} << 30;

TEST(widensAPageWithoutLosingItsCounts) {
  const auto counts = ReferenceCounts::create(200000, 16, kPlenty);
  for (uint64_t cluster = 65530; cluster < 65540; ++cluster) CHECK(counts->add(cluster, cluster - 65529));
  const uint64_t steps[] = {255, 65535, uint64_t{0xffffffff}, ~uint64_t{0}};
  for (const uint64_t step : steps) {
    CHECK(counts->add(65536, step - counts->get(65536)));
    CHECK_EQUAL(counts->get(65536), step);
    CHECK_EQUAL(counts->get(65537), 8);
    CHECK_EQUAL(counts->get(65535), 6);
  }
  CHECK(counts->add(65536, 5));
  CHECK_EQUAL(counts->get(65536), ~uint64_t{0});
}

TEST(searchesAcrossAbsentPages) {
  const auto counts = ReferenceCounts::create(500000, 16, kPlenty);
  CHECK_EQUAL(counts->usedEnd(), 0);
  CHECK_EQUAL(counts->nextUsed(0, 500000), 500000);
  CHECK(counts->add(400000, 1));
  CHECK(counts->add(7, 1));
  CHECK_EQUAL(counts->nextUsed(0, 500000), 7);
  CHECK_EQUAL(counts->nextUsed(8, 500000), 400000);
  CHECK_EQUAL(counts->nextUsed(8, 300000), 300000);
  CHECK_EQUAL(counts->nextFree(7, 500000), 8);
  CHECK_EQUAL(counts->nextFree(600000, 700000), 600000);
  CHECK_EQUAL(counts->usedEnd(), 400001);
}

TEST(staysWithinItsLimit) {
  CHECK(ReferenceCounts::create(uint64_t{1} << 47, 9, kPlenty) == nullptr);
  const auto counts = ReferenceCounts::create(1 << 20, 16, 200000);
  uint64_t pages = 0;
  while (pages < 16 && counts->add(pages << 16, 1)) ++pages;
  CHECK_EQUAL(pages, 12);
  CHECK(counts->bytes() <= 200000);
  CHECK(!counts->add(0, 300));
  CHECK_EQUAL(counts->get(0), 1);
  CHECK(!counts->extend(uint64_t{1} << 40));
  CHECK(counts->add(0, 1));
}

// Whatever lies in the page before, a run adds as much to each of its clusters.
TEST(countsRunsAsClusters) {
  Random random(4);
  for (int round = 0; round < 300; ++round) {
    const auto counts = ReferenceCounts::create(70000, 16, kPlenty);
    const auto wanted = ReferenceCounts::create(70000, 16, kPlenty);
    for (int run = 0; run < 6; ++run) {
      const uint64_t first = random.below(2) == 0 ? random.below(200) : 65400 + random.below(200);
      const uint64_t length = 1 + random.below(400);
      const uint64_t times = random.below(8) == 0 ? 300 : random.below(5);
      CHECK(counts->addRun(first, length, times));
      for (uint64_t at = first; at < first + length; ++at) CHECK(wanted->add(at, times));
    }
    for (uint64_t at = 0; at < 66100; ++at) CHECK_EQUAL(counts->get(at), wanted->get(at));
    CHECK_EQUAL(counts->isShared(), wanted->isShared());
  }
}

// What is counted from any bits can be written as 64-bit refcounts, and then compares equal.
TEST(countsAnyBitsWithinBounds) {
  Random random(3);
  for (int round = 0; round < 500; ++round) {
    const bool extended = random.below(2) == 1;
    const unsigned bits = static_cast<unsigned>(extended ? 14 + random.below(3) : 9 + random.below(8));
    const L2Format format = {bits, extended, random.below(2) == 1, random.below(4) == 0, false};
    const auto counts = ReferenceCounts::create(random.below(3000), bits, kPlenty);
    ByteMemory table(16 * (1 + random.below(32)));
    for (size_t at = 0; at < table.size(); at += 8) {
      const uint64_t near = (random.below(4000) << bits) | kCopied;
      const uint64_t words[] = {0, near, near, near | kCompressed, random.next()};
      storeBig(table.view().data() + at, words[random.below(5)]);
    }
    L2Summary summary;
    Memory<double> problems(random.below(10));
    CHECK(addL2Table(*counts, format, table, 0, 1 + random.below(300), summary, problems) == Counted::all);
    Memory<double> copied(1 + random.below(10));
    CHECK(copiedMismatches(*counts, format, table, 0, copied) <= copied.size() / kCopiedStride);
    ByteMemory block(4096);
    Memory<double> mismatches(kMismatchStride);
    CHECK_EQUAL(fillBlock(*counts, block, 6, 100), kAllFit);
    CHECK_EQUAL(compareBlock(*counts, block, 6, 100, 0, mismatches), 0);
    CHECK_EQUAL(addToBlock(*counts, block, 6, 100, true), kAllFit);
    CHECK_EQUAL(refcountNextUsed(block, 6, 0, 512), 512);
    CHECK_EQUAL(addToBlock(*counts, block, 6, 100, false), kAllFit);
    const auto again = ReferenceCounts::create(counts->clusters(), bits, kPlenty);
    CHECK(countBlock(*again, block, 6, 100));
    for (uint64_t at = 100; at < 612; ++at) CHECK_EQUAL(again->get(at), counts->get(at));
    refcountSet(block, 6, 511, 1, refcountGet(block, 6, 511) + 1);
    CHECK_EQUAL(compareBlock(*counts, block, 6, 100, 0, mismatches), 1);
    CHECK_EQUAL(mismatches[0], 611);
  }
}

}  // namespace
}  // namespace qcow2
