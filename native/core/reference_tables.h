// Counting the references of L2 tables, and holding the COPIED flags of their entries against the counts.
#ifndef QCOW2_CORE_REFERENCE_TABLES_H_
#define QCOW2_CORE_REFERENCE_TABLES_H_

#include "core/l2_entry.h"
#include "core/reference_counts.h"

namespace qcow2 {

// What the entries of L2 tables are; invalid entries are only among the problems.
struct L2Summary {
  // Standard clusters that have a host cluster, and of these the ones that do not lie right behind the one
  // before in the same table.
  uint64_t allocated = 0;
  uint64_t fragmented = 0;
  uint64_t compressed = 0;
  // Clusters without host cluster that read as zeros, at least in part.
  uint64_t zero = 0;
  uint64_t problems = 0;
  // Entries whose COPIED flag is wrong if no cluster is shared.
  uint64_t wrongIfUnshared = 0;
};

// Numbers per problem: table, index of the entry, reason (an InvalidEntry), host offset.
constexpr size_t kProblemStride = 4;

enum class Counted : uint8_t { all, limitPassed };

// Counts every host cluster that [host, host + length) touches, `times` times. Sets `pastEnd` when some lie
// past the last one; those are not counted.
Counted addRange(ReferenceCounts& counts, uint64_t host, uint64_t length, uint64_t times, bool* pastEnd);

// Counts what the entries of an L2 table refer to (nothing when it lies in an external data file), adding to
// `summary`. Problems are written to `problems` as long as there is room, and told to be those of table
// number `number`.
Counted addL2Table(ReferenceCounts& counts, const L2Format& format, Bytes table, uint64_t number,
                   uint64_t times, L2Summary& summary, Span<double> problems);

// Numbers per entry with a wrong COPIED flag: index, and the right flag as 1 or 0.
constexpr size_t kCopiedStride = 2;
// Checks the entries from index `first` on; leaves out invalid ones, save those that have COPIED and no host
// cluster. Returns the number found; when `out` is full more may follow.
size_t copiedMismatches(const ReferenceCounts& counts, const L2Format& format, Bytes table, size_t first,
                        Span<double> out);

// How many entries of a table were changed, and the bytes [start, end) of it that hold them.
struct ChangedEntries {
  size_t count = 0;
  size_t start = 0;
  size_t end = 0;
};

// Corrects the flags that copiedMismatches() tells of: those that must be set, or those that must be clear.
ChangedEntries correctCopied(const ReferenceCounts& counts, const L2Format& format, MutableBytes table,
                             bool toSet);

// Clears COPIED in all entries of `entrySize` bytes, of which the table is a whole number.
ChangedEntries clearCopied(MutableBytes table, size_t entrySize);

}  // namespace qcow2

#endif  // QCOW2_CORE_REFERENCE_TABLES_H_
