// Counting the references of L2 tables, and holding the COPIED flags of their entries against the counts.
#include "core/reference_tables.h"

#include <algorithm>

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

// How many entries from `index` on, the first of them data and nothing else, are that and lie one behind the
// other below cluster `clusters`, with COPIED alike.
size_t followingEntries(const L2Format& format, Bytes table, size_t index, uint64_t clusters) {
  const uint64_t first = loadDescriptor(format, table, index);
  const uint64_t most =
      std::min(table.size() / 8 - index, clusters - ((first & kHostMask) >> format.clusterBits));
  const unsigned char* const at = table.data() + index * 8;
  size_t count = 1;
  // The next offset is told from the last by a sum, as long as that does not reach the bits above offsets.
  while (count < most && loadBig<uint64_t>(at + count * 8) == first + (uint64_t{count} << format.clusterBits))
    ++count;
  return count;
}

enum class Copied : uint8_t { clear, set, unknown };

// `once`: whether the cluster of an entry that has one is referenced exactly once.
Copied expectedCopied(const L2Entry& entry, bool once) {
  if (entry.kind == EntryKind::invalid) {
    return entry.reason == InvalidEntry::copiedWithoutHost ? Copied::clear : Copied::unknown;
  }
  if (entry.kind == EntryKind::compressed || !entry.hasHost) return Copied::clear;
  return once ? Copied::set : Copied::clear;
}

bool isWrong(Copied expected, bool isCopied) {
  return expected != Copied::unknown && (expected == Copied::set) != isCopied;
}

// Calls visit(index, right) for the entries from `first` on whose flag is wrong, until it returns false.
template <typename Visit>
void forEachWrongFlag(const ReferenceCounts& counts, const L2Format& format, Bytes table, size_t first,
                      const Visit& visit) {
  const size_t entries = table.size() / format.entrySize();
  for (size_t index = first; index < entries; ++index) {
    QCOW2_PREFETCH(counterAhead(counts, format, table, entries, index));
    const uint64_t descriptor = loadDescriptor(format, table, index);
    if (descriptor == 0) continue;
    const bool isCopied = (descriptor & kCopied) != 0;
    const uint64_t plain = plainHost(format, descriptor);
    if (plain != 0 && (counts.get(plain >> format.clusterBits) == 1) == isCopied) continue;
    const L2Entry entry = decodeL2Entry(format, descriptor, loadBitmap(format, table, index));
    const bool once = format.externalData || counts.get(entry.host >> format.clusterBits) == 1;
    const Copied expected = expectedCopied(entry, once);
    if (isWrong(expected, isCopied) && !visit(index, expected)) return;
  }
}

}  // namespace

Counted addRange(ReferenceCounts& counts, uint64_t host, uint64_t length, uint64_t times, bool* pastEnd) {
  *pastEnd = false;
  if (length == 0) return Counted::all;
  const uint64_t first = host >> counts.clusterBits();
  const uint64_t last = (host + length - 1) >> counts.clusterBits();
  *pastEnd = last >= counts.clusters();
  const uint64_t end = std::min(last + 1, counts.clusters());
  if (first >= end) return Counted::all;
  return counts.addRun(first, end - first, times) ? Counted::all : Counted::limitPassed;
}

Counted addL2Table(ReferenceCounts& counts, const L2Format& format, Bytes table, uint64_t number,
                   uint64_t times, L2Summary& summary, Span<double> problems) {
  const size_t entries = table.size() / format.entrySize();
  uint64_t nextHost = 0;
  L2Summary found;
  for (size_t index = 0; index < entries; ++index) {
    QCOW2_PREFETCH(counterAhead(counts, format, table, entries, index));
    const uint64_t descriptor = loadDescriptor(format, table, index);
    const uint64_t plain = plainHost(format, descriptor);
    const uint64_t cluster = plain >> format.clusterBits;
    if (plain != 0 && cluster < counts.clusters()) {
      const size_t run = followingEntries(format, table, index, counts.clusters());
      if (!(run == 1 ? counts.add(cluster, times) : counts.addRun(cluster, run, times)))
        return Counted::limitPassed;
      found.allocated += run;
      found.fragmented += nextHost != 0 && plain != nextHost;
      found.wrongIfUnshared += (descriptor & kCopied) != 0 ? 0 : run;
      nextHost = plain + (uint64_t{run} << format.clusterBits);
      index += run - 1;
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
    // What lies past the end is not referenced once, but cannot be.
    summary.wrongIfUnshared += isWrong(expectedCopied(entry, !pastEnd), (descriptor & kCopied) != 0);
    if (entry.kind == EntryKind::invalid) {
      writeProblem(summary, problems, number, index, entry.reason, entry.host);
      continue;
    }
    if (pastEnd) writeProblem(summary, problems, number, index, InvalidEntry::pastEnd, entry.host);
    summarize(entry, nextHost, summary);
  }
  summary.allocated += found.allocated;
  summary.fragmented += found.fragmented;
  summary.wrongIfUnshared += found.wrongIfUnshared;
  return Counted::all;
}

size_t copiedMismatches(const ReferenceCounts& counts, const L2Format& format, Bytes table, size_t first,
                        Span<double> out) {
  const size_t room = out.size() / kCopiedStride;
  size_t found = 0;
  forEachWrongFlag(counts, format, table, first, [&](size_t index, Copied right) {
    if (found == room) return false;
    const Span<double> slot = out.subspan(found++ * kCopiedStride, kCopiedStride);
    slot[0] = static_cast<double>(index);
    slot[1] = right == Copied::set ? 1 : 0;
    return true;
  });
  return found;
}

ChangedEntries correctCopied(const ReferenceCounts& counts, const L2Format& format, MutableBytes table,
                             bool toSet) {
  const Copied due = toSet ? Copied::set : Copied::clear;
  ChangedEntries changed;
  forEachWrongFlag(counts, format, table, 0, [&](size_t index, Copied right) {
    if (right != due) return true;
    const size_t at = index * format.entrySize();
    storeBig(table.data() + at, loadBig<uint64_t>(table.data() + at) ^ kCopied);
    if (changed.count++ == 0) changed.start = at;
    changed.end = at + format.entrySize();
    return true;
  });
  return changed;
}

ChangedEntries clearCopied(MutableBytes table, size_t entrySize) {
  ChangedEntries changed;
  constexpr unsigned char kCopiedBit = 0x80;
  for (size_t at = 0; at < table.size(); at += entrySize) {
    if ((table.data()[at] & kCopiedBit) == 0) continue;
    table.data()[at] &= static_cast<unsigned char>(~kCopiedBit);
    if (changed.count++ == 0) changed.start = at;
    changed.end = at + entrySize;
  }
  return changed;
}

}  // namespace qcow2
