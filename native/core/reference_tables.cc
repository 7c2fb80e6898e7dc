// Counting the references of L2 tables, and holding the counts against what an image says: refcount blocks
// and COPIED.
#include "core/reference_tables.h"

#include <algorithm>

#include "core/refcount.h"

// A macro, as gcc 12 takes functions that only prefetch for having no effect.
#if defined(__GNUC__)
#define QCOW2_PREFETCH(address) __builtin_prefetch(address)
#else
#define QCOW2_PREFETCH(address) static_cast<void>(address)
#endif

namespace qcow2 {
namespace {

void writeProblem(L2Summary& summary, Span<double> problems, uint64_t number, size_t index,
                  InvalidEntry reason, uint64_t host) {
  const uint64_t room = problems.size() / kProblemStride;
  if (summary.problems < room) {
    const Span<double> slot =
        problems.subspan(static_cast<size_t>(summary.problems) * kProblemStride, kProblemStride);
    slot[0] = static_cast<double>(number);
    slot[1] = static_cast<double>(index);
    slot[2] = static_cast<double>(reason);
    slot[3] = static_cast<double>(host);
  }
  ++summary.problems;
}

void summarize(const L2Entry& entry, uint64_t& nextHost, L2Summary& summary) {
  if (entry.kind == EntryKind::compressed) {
    ++summary.compressed;
  } else if (entry.hasHost) {
    ++summary.allocated;
    if (nextHost != 0 && entry.host != nextHost) ++summary.fragmented;
    nextHost = entry.host + entry.hostLength;
  } else if (entry.zero != 0) {
    ++summary.zero;
  }
}

// How many entries ahead counters are fetched: in a shuffled image each lies somewhere else, and waiting for
// memory is most of the work.
constexpr size_t kLookahead = 24;

const unsigned char* counterAhead(const ReferenceCounts& counts, const L2Format& format, Bytes table,
                                  size_t entries, size_t index) {
  const size_t ahead = index + kLookahead;
  if (ahead >= entries) return nullptr;
  return counts.counterOf((loadDescriptor(format, table, ahead) & kHostMask) >> format.clusterBits);
}

// The host cluster of an entry that is data and nothing else, as nearly all are; 0 for every other entry.
uint64_t plainHost(const L2Format& format, uint64_t descriptor) {
  constexpr uint64_t kAnythingElse = kReservedStandard | kCompressed | kZeroFlag;
  const uint64_t host = descriptor & kHostMask;
  const bool plain = (descriptor & kAnythingElse) == 0 && (host & (format.clusterSize() - 1)) == 0 &&
                     !format.extended && !format.externalData;
  return plain ? host : 0;
}

// How many refcounts of a block, from `index` on, surely agree with the counts; the next may agree, too.
size_t agreeing(const ReferenceCounts& counts, Bytes block, unsigned order, uint64_t cluster, size_t index) {
  if (order != 4) return 0;
  const Bytes narrow = counts.narrowFrom(cluster);
  const size_t limit = std::min(narrow.size(), block.size() / 2 - index);
  const unsigned char* stored = block.data() + index * 2;
  size_t same = 0;
  while (same < limit && loadBig<uint16_t>(stored + same * 2) == narrow[same]) ++same;
  return same;
}

enum class Copied : uint8_t { clear, set, unknown };

Copied expectedCopied(const ReferenceCounts& counts, const L2Format& format, const L2Entry& entry) {
  if (entry.kind == EntryKind::invalid) {
    return entry.reason == InvalidEntry::copiedWithoutHost ? Copied::clear : Copied::unknown;
  }
  if (entry.kind == EntryKind::compressed || !entry.hasHost) return Copied::clear;
  const bool once = format.externalData || counts.get(entry.host >> format.clusterBits) == 1;
  return once ? Copied::set : Copied::clear;
}

}  // namespace

Counted addRange(ReferenceCounts& counts, uint64_t host, uint64_t length, uint64_t times, bool* pastEnd) {
  *pastEnd = false;
  if (length == 0) return Counted::all;
  const uint64_t first = host >> counts.clusterBits();
  const uint64_t last = (host + length - 1) >> counts.clusterBits();
  *pastEnd = last >= counts.clusters();
  const uint64_t end = std::min(last + 1, counts.clusters());
  for (uint64_t cluster = first; cluster < end; ++cluster) {
    if (!counts.add(cluster, times)) return Counted::limitPassed;
  }
  return Counted::all;
}

Counted addL2Table(ReferenceCounts& counts, const L2Format& format, Bytes table, uint64_t number,
                   uint64_t times, L2Summary& summary, Span<double> problems) {
  const size_t entries = table.size() / format.entrySize();
  uint64_t nextHost = 0;
  for (size_t index = 0; index < entries; ++index) {
    QCOW2_PREFETCH(counterAhead(counts, format, table, entries, index));
    const uint64_t descriptor = loadDescriptor(format, table, index);
    const uint64_t plain = plainHost(format, descriptor);
    if (plain != 0 && (plain >> format.clusterBits) < counts.clusters()) {
      if (!counts.add(plain >> format.clusterBits, times)) return Counted::limitPassed;
      ++summary.allocated;
      if (nextHost != 0 && plain != nextHost) ++summary.fragmented;
      nextHost = plain + format.clusterSize();
      continue;
    }
    const uint64_t bitmap = loadBitmap(format, table, index);
    if ((descriptor | bitmap) == 0) continue;
    const L2Entry entry = decodeL2Entry(format, descriptor, bitmap);
    bool pastEnd = false;
    if (!format.externalData &&
        addRange(counts, entry.host, entry.hostLength, times, &pastEnd) == Counted::limitPassed) {
      return Counted::limitPassed;
    }
    if (entry.kind == EntryKind::invalid) {
      writeProblem(summary, problems, number, index, entry.reason, entry.host);
      continue;
    }
    if (pastEnd) writeProblem(summary, problems, number, index, InvalidEntry::pastEnd, entry.host);
    summarize(entry, nextHost, summary);
  }
  return Counted::all;
}

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

size_t copiedMismatches(const ReferenceCounts& counts, const L2Format& format, Bytes table, size_t first,
                        Span<double> out) {
  const size_t entries = table.size() / format.entrySize();
  const size_t room = out.size() / kCopiedStride;
  size_t found = 0;
  for (size_t index = first; index < entries; ++index) {
    QCOW2_PREFETCH(counterAhead(counts, format, table, entries, index));
    const uint64_t descriptor = loadDescriptor(format, table, index);
    if (descriptor == 0) continue;
    const bool isCopied = (descriptor & kCopied) != 0;
    const uint64_t plain = plainHost(format, descriptor);
    if (plain != 0 && (counts.get(plain >> format.clusterBits) == 1) == isCopied) continue;
    const L2Entry entry = decodeL2Entry(format, descriptor, loadBitmap(format, table, index));
    const Copied expected = expectedCopied(counts, format, entry);
    const Copied stored = isCopied ? Copied::set : Copied::clear;
    if (expected == Copied::unknown || expected == stored) continue;
    if (found == room) return found;
    const Span<double> slot = out.subspan(found++ * kCopiedStride, kCopiedStride);
    slot[0] = static_cast<double>(index);
    slot[1] = expected == Copied::set ? 1 : 0;
  }
  return found;
}

}  // namespace qcow2
