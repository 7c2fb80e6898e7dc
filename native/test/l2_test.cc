// L2 tables: hand-made entries with known meaning, and any bits at all without a step out of bounds.
#include <initializer_list>

#include "core/l2_map.h"
#include "core/l2_set.h"
#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Memory;
using test::Random;

constexpr L2Format kStandard = {16, false, true, false, false};
constexpr L2Format kExtended = {16, true, true, false, false};

void put(const ByteMemory& table, size_t word, uint64_t value) {
  storeBig(table.view().data() + word * 8, value);
}
uint64_t wordOf(const ByteMemory& table, size_t word) {
  return loadBig<uint64_t>(table.view().data() + word * 8);
}

struct Expected {
  RunKind kind;
  uint64_t length;
  uint64_t host;
  uint64_t aux;
};

void checkRuns(const L2Format& format, const ByteMemory& table, std::initializer_list<Expected> expected) {
  Memory<double> out(4 * 64);
  const size_t count = mapL2(format, table, 0, table.size() / format.entrySize(), out);
  CHECK_EQUAL(count, expected.size());
  size_t at = 0;
  for (const Expected& run : expected) {
    CHECK_EQUAL(out[at], run.kind);
    CHECK_EQUAL(out[at + 1], run.length);
    CHECK_EQUAL(out[at + 2], run.host);
    CHECK_EQUAL(out[at + 3], run.aux);
    at += 4;
  }
}

TEST(mapsEveryKindOfStandardEntry) {
  ByteMemory table(8 * 8);
  put(table, 1, 1);
  put(table, 2, kCopied | 0x50000);
  put(table, 3, kCopied | 0x60000);
  put(table, 4, kCopied | 0x70000 | 1);
  // 2 more sectors, x = 62 - (16 - 8) = 54.
  put(table, 5, kCompressed | uint64_t{2} << 54 | 0x81234);
  put(table, 6, 0x90200);
  put(table, 7, 0x90002);
  checkRuns(kStandard, table,
            {{RunKind::unallocated, 0x10000, 0, 0},
             {RunKind::zero, 0x10000, 0, 0},
             {RunKind::data, 0x20000, 0x50000, 1},
             {RunKind::zeroAllocated, 0x10000, 0x70000, 1},
             {RunKind::compressed, 0x10000, 0x81234, 0x81800 - 0x81234},
             {RunKind::invalid, 0x10000, 0, 1},
             {RunKind::invalid, 0x10000, 0, 0}});
}

TEST(mapsSubclustersAcrossEntries) {
  ByteMemory table(3 * 16);
  put(table, 0, kCopied | 0x50000);
  put(table, 1, 0xfffffff0 | uint64_t{0x3} << 32);
  put(table, 2, kCopied | 0x60000);
  put(table, 3, 0x0000ffff);
  put(table, 5, uint64_t{0x80000000} << 32);
  checkRuns(kExtended, table,
            {{RunKind::zeroAllocated, 2 * 2048, 0x50000, 1},
             {RunKind::unallocatedInCluster, 2 * 2048, 0x51000, 1},
             {RunKind::data, 28 * 2048 + 16 * 2048, 0x52000, 1},
             {RunKind::unallocatedInCluster, 16 * 2048, 0x68000, 1},
             {RunKind::unallocated, 31 * 2048, 0, 0},
             {RunKind::zero, 2048, 0, 0}});
}

TEST(mapsAnyBitsWithinBounds) {
  Random random(1);
  for (int round = 0; round < 2000; ++round) {
    const bool extended = random.below(2) == 1;
    const unsigned bits = static_cast<unsigned>(extended ? 14 + random.below(8) : 9 + random.below(13));
    const L2Format format = {bits, extended, random.below(2) == 1, random.below(2) == 1,
                             random.below(2) == 1};
    const size_t entries = random.below(40) + 1;
    ByteMemory table(entries * format.entrySize());
    for (size_t word = 0; word < table.size() / 8; ++word) {
      const uint64_t masks[] = {0, 1, kHostMask, kHostMask | kCopied, ~uint64_t{0}};
      put(table, word, random.next() & masks[random.below(5)]);
    }
    Memory<double> out((maxRunsPerEntry(format) + random.below(8)) * kRunStride);
    for (size_t first = 0; first < entries;) {
      const size_t runs = mapL2(format, table, first, entries - first, out);
      uint64_t covered = 0;
      for (size_t run = 0; run < runs; ++run) covered += static_cast<uint64_t>(out[run * kRunStride + 1]);
      CHECK_EQUAL(covered % format.clusterSize(), 0);
      CHECK(covered > 0);
      if (covered == 0) break;
      first += covered >> format.clusterBits;
    }
  }
}

TEST(setsDataInSubclusters) {
  ByteMemory table(2 * 16);
  put(table, 1, uint64_t{0xffffffff} << 32);
  l2SetData(kExtended, table, {30 * 2048, 4 * 2048}, 0x50000);
  CHECK_EQUAL(wordOf(table, 0), kCopied | 0x50000);
  CHECK_EQUAL(wordOf(table, 1), uint64_t{0x3fffffff} << 32 | 0xc0000000);
  CHECK_EQUAL(wordOf(table, 2), kCopied | 0x60000);
  CHECK_EQUAL(wordOf(table, 3), 0x3);
}

TEST(setsZerosWithAndWithoutHost) {
  ByteMemory table(2 * 8);
  put(table, 0, kCopied | 0x50000);
  put(table, 1, kCompressed | 0x61234);
  l2SetZero(kStandard, table, {0, 0x20000}, true);
  CHECK_EQUAL(wordOf(table, 0), kCopied | 0x50000 | 1);
  CHECK_EQUAL(wordOf(table, 1), 1);
  l2SetZero(kStandard, table, {0, 0x10000}, false);
  CHECK_EQUAL(wordOf(table, 0), 1);
}

TEST(keepsTheHostOfPartlyUnallocatedClusters) {
  ByteMemory table(2 * 16);
  put(table, 0, kCopied | 0x50000);
  put(table, 1, 0xffffffff);
  put(table, 2, kCopied | 0x60000);
  put(table, 3, 0xffffffff);
  l2SetUnallocated(kExtended, table, {0x8000, 0x18000});
  CHECK_EQUAL(wordOf(table, 0), kCopied | 0x50000);
  CHECK_EQUAL(wordOf(table, 1), 0x0000ffff);
  CHECK_EQUAL(wordOf(table, 2), 0);
  CHECK_EQUAL(wordOf(table, 3), 0);
}

TEST(describesCompressedDataOfEveryLength) {
  for (unsigned bits = 9; bits <= 21; ++bits) {
    const L2Format format = {bits, false, true, false, false};
    for (const uint64_t host : {uint64_t{512}, uint64_t{1023}, uint64_t{0x12345}}) {
      for (const uint64_t length :
           {uint64_t{1}, uint64_t{512} - host % 512, maxCompressedLength(format, host)}) {
        ByteMemory table(8);
        l2SetCompressed(format, table, 0, host, length);
        const L2Entry entry = decodeL2Entry(format, wordOf(table, 0), 0);
        CHECK(entry.kind == EntryKind::compressed);
        CHECK_EQUAL(entry.host, host);
        CHECK(entry.hostLength >= length && entry.hostLength < length + kSector);
      }
    }
  }
}

}  // namespace
}  // namespace qcow2
