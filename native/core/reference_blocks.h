// Refcount blocks and counted references: comparing them, and making one of the other.
#ifndef QCOW2_CORE_REFERENCE_BLOCKS_H_
#define QCOW2_CORE_REFERENCE_BLOCKS_H_

#include "core/reference_counts.h"

namespace qcow2 {

// Numbers per mismatch: first cluster, how many are alike, stored refcount, counted references.
constexpr size_t kMismatchStride = 4;
// Compares the refcounts of a block from index `first` on; index 0 is cluster `firstCluster`. Returns the
// number of mismatches; when `out` is full more may follow.
size_t compareBlock(const ReferenceCounts& counts, Bytes block, unsigned order, uint64_t firstCluster,
                    size_t first, Span<double> out);

constexpr uint64_t kAllFit = ~uint64_t{0};
// Writes the counts as the refcounts of a block. Returns the first cluster whose count does not fit, else
// kAllFit.
uint64_t fillBlock(const ReferenceCounts& counts, MutableBytes block, unsigned order, uint64_t firstCluster);

// Adds the counts to the refcounts of a block, or takes them off. Returns the first cluster whose refcount would
// leave its range, and then changes nothing; else kAllFit.
uint64_t addToBlock(const ReferenceCounts& counts, MutableBytes block, unsigned order, uint64_t firstCluster,
                    bool subtract);

// Numbers per run: first cluster, how many.
constexpr size_t kRunOfClusters = 2;
// Finds the clusters, from index `first` of a block on, that are counted as often as their refcount says and at
// least once: those that nothing else refers to. Returns the number of runs; when `out` is full more may follow.
size_t lastReferences(const ReferenceCounts& counts, Bytes block, unsigned order, uint64_t firstCluster,
                      size_t first, Span<double> out);

// Counts every cluster below counts.clusters() as often as a block says. False when the limit would be passed,
// with some of them counted.
bool countBlock(ReferenceCounts& counts, Bytes block, unsigned order, uint64_t firstCluster);

}  // namespace qcow2

#endif  // QCOW2_CORE_REFERENCE_BLOCKS_H_
