// Refcount blocks and counted references: comparing them, and making one of the other.
#include "core/reference_blocks.h"

#include <algorithm>
#include <cstring>

#include "core/endian.h"
#include "core/refcount.h"

namespace qcow2 {
namespace {

// Whether 32 refcounts of 16 bits are those of a word of counters.
bool isWordOf(const unsigned char* stored, uint64_t word) {
  constexpr uint64_t kOnes = 0x5555555555555555;
  const uint64_t four = word == kOnes ? swapBig(uint64_t{0x0001000100010001}) : 0;
  if (word == kOnes || word == 0) {
    uint64_t difference = 0;
    for (size_t at = 0; at < 64; at += 8) {
      uint64_t value;
      std::memcpy(&value, stored + at, sizeof value);
      difference |= value ^ four;
    }
    return difference == 0;
  }
  unsigned difference = 0;
  for (unsigned at = 0; at < ReferenceCounts::kWordClusters; ++at) {
    difference |= loadBig<uint16_t>(stored + at * 2) ^ static_cast<unsigned>(word >> at * 2 & 3);
  }
  return difference == 0;
}

// How many refcounts of a block, from `index` on, surely agree with the counts; the next may agree, too.
size_t agreeing(const ReferenceCounts& counts, Bytes block, unsigned order, uint64_t cluster, size_t index) {
  if (order != 4 || cluster % ReferenceCounts::kWordClusters != 0) return 0;
  const Bytes words = counts.wordsFrom(cluster);
  const size_t left = block.size() / 2 - index;
  const size_t limit = std::min(words.size() / 8, left / ReferenceCounts::kWordClusters);
  const unsigned char* const stored = block.data() + index * 2;
  size_t same = 0;
  while (same < limit && isWordOf(stored + same * 64, ReferenceCounts::loadWord(words.data() + same * 8)))
    ++same;
  return same * ReferenceCounts::kWordClusters;
}

// Calls change(first, count, times) for the runs of clusters of a block that are counted equally often, until it
// returns false. Returns where that was, else `end`.
template <typename Change>
uint64_t forEachRun(const ReferenceCounts& counts, uint64_t first, uint64_t end, const Change& change) {
  const uint64_t stop = std::min(end, counts.clusters());
  for (uint64_t at = first < stop ? counts.nextUsed(first, stop) : stop; at < stop;) {
    const uint64_t runEnd = counts.runEnd(at, stop);
    if (!change(at, runEnd - at, counts.get(at))) return at;
    at = counts.nextUsed(runEnd, stop);
  }
  return end;
}

}  // namespace

size_t compareBlock(const ReferenceCounts& counts, Bytes block, unsigned order, uint64_t firstCluster,
                    size_t first, Span<double> out) {
  const size_t entries = static_cast<size_t>(refcountsIn(block.size(), order));
  const size_t room = out.size() / kMismatchStride;
  size_t found = 0;
  uint64_t lastStored = 0;
  uint64_t lastCounted = 0;
  uint64_t lastEnd = 0;
  for (size_t index = first; index < entries; ++index) {
    index += agreeing(counts, block, order, firstCluster + index, index);
    if (index >= entries) break;
    const uint64_t stored = refcountGet(block, order, index);
    const uint64_t counted = counts.get(firstCluster + index);
    if (stored == counted) continue;
    const bool alike = found != 0 && index == lastEnd && stored == lastStored && counted == lastCounted;
    lastEnd = index + 1;
    if (alike) {
      out[(found - 1) * kMismatchStride + 1] += 1;
      continue;
    }
    if (found == room) return found;
    const Span<double> slot = out.subspan(found++ * kMismatchStride, kMismatchStride);
    slot[0] = static_cast<double>(firstCluster + index);
    slot[1] = 1;
    slot[2] = static_cast<double>(stored);
    slot[3] = static_cast<double>(counted);
    lastStored = stored;
    lastCounted = counted;
  }
  return found;
}

uint64_t fillBlock(const ReferenceCounts& counts, MutableBytes block, unsigned order, uint64_t firstCluster) {
  const size_t entries = static_cast<size_t>(refcountsIn(block.size(), order));
  for (size_t index = 0; index < entries; ++index) {
    const uint64_t count = counts.get(firstCluster + index);
    if (count > maxRefcount(order)) return firstCluster + index;
    refcountSet(block, order, index, 1, count);
  }
  return kAllFit;
}

uint64_t addToBlock(const ReferenceCounts& counts, MutableBytes block, unsigned order, uint64_t firstCluster,
                    bool subtract) {
  const uint64_t end = firstCluster + refcountsIn(block.size(), order);
  uint64_t misfit = kAllFit;
  const auto add = [&](bool down) {
    return [&, down](uint64_t first, uint64_t count, uint64_t times) {
      const auto index = static_cast<size_t>(first - firstCluster);
      const size_t failed = refcountAdd(block, order, index, static_cast<size_t>(count), down, times);
      if (failed != kAllAdded) misfit = firstCluster + failed;
      return failed == kAllAdded;
    };
  };
  const uint64_t reached = forEachRun(counts, firstCluster, end, add(subtract));
  if (misfit == kAllFit) return kAllFit;
  const uint64_t failed = misfit;
  forEachRun(counts, firstCluster, reached, add(!subtract));
  return failed;
}

size_t lastReferences(const ReferenceCounts& counts, Bytes block, unsigned order, uint64_t firstCluster,
                      size_t first, Span<double> out) {
  const uint64_t end = firstCluster + refcountsIn(block.size(), order);
  const size_t room = out.size() / kRunOfClusters;
  size_t found = 0;
  forEachRun(counts, firstCluster + first, end, [&](uint64_t start, uint64_t count, uint64_t times) {
    const auto stop = static_cast<size_t>(start + count - firstCluster);
    for (auto index = static_cast<size_t>(start - firstCluster); index < stop;) {
      const size_t runEnd = refcountRunEnd(block, order, index, stop);
      if (refcountGet(block, order, index) == times) {
        if (found == room) return false;
        const Span<double> slot = out.subspan(found++ * kRunOfClusters, kRunOfClusters);
        slot[0] = static_cast<double>(firstCluster + index);
        slot[1] = static_cast<double>(runEnd - index);
      }
      index = runEnd;
    }
    return true;
  });
  return found;
}

bool countBlock(ReferenceCounts& counts, Bytes block, unsigned order, uint64_t firstCluster) {
  if (firstCluster >= counts.clusters()) return true;
  const auto entries =
      static_cast<size_t>(std::min(refcountsIn(block.size(), order), counts.clusters() - firstCluster));
  for (size_t at = refcountNextUsed(block, order, 0, entries); at < entries;) {
    const size_t runEnd = refcountRunEnd(block, order, at, entries);
    if (!counts.addRun(firstCluster + at, runEnd - at, refcountGet(block, order, at))) return false;
    at = refcountNextUsed(block, order, runEnd, entries);
  }
  return true;
}

}  // namespace qcow2
