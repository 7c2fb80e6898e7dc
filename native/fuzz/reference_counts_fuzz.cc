// libFuzzer: the references of any L2 tables are counted within the given memory as a plain map counts them,
// and the refcount blocks written from the counts agree with them.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <vector>

#include "core/refcount.h"
#include "core/reference_blocks.h"
#include "core/reference_tables.h"
#include "fuzz/expand.h"

namespace {

using namespace qcow2;

constexpr uint64_t kLimit = 8u << 20;

void require(bool holds) {
  if (!holds) std::abort();
}

class Model {
 public:
  explicit Model(uint64_t clusters) : clusters_(clusters) {}

  void add(uint64_t host, uint64_t length, unsigned clusterBits, uint64_t times) {
    if (length == 0) return;
    const uint64_t last = (host + length - 1) >> clusterBits;
    for (uint64_t at = host >> clusterBits; at <= last && at < clusters_; ++at) {
      uint64_t& count = counts_[at];
      count = times > ~uint64_t{0} - count ? ~uint64_t{0} : count + times;
    }
  }

  void addTable(const L2Format& format, Bytes table, uint64_t times) {
    if (format.externalData) return;
    for (size_t index = 0; index < table.size() / format.entrySize(); ++index) {
      const L2Entry entry =
          decodeL2Entry(format, loadDescriptor(format, table, index), loadBitmap(format, table, index));
      add(entry.host, entry.hostLength, format.clusterBits, times);
    }
  }

  uint64_t get(uint64_t cluster) const {
    const auto found = counts_.find(cluster);
    return found == counts_.end() ? 0 : found->second;
  }

  const std::map<uint64_t, uint64_t>& counts() const { return counts_; }

 private:
  uint64_t clusters_;
  std::map<uint64_t, uint64_t> counts_;
};

void checkCounts(const ReferenceCounts& counts, const Model& model) {
  uint64_t end = 0;
  uint64_t from = 0;
  for (const auto& [cluster, count] : model.counts()) {
    if (count == 0) continue;
    require(counts.get(cluster) == count);
    require(counts.nextUsed(from, counts.clusters()) == cluster);
    from = cluster + 1;
    end = cluster + 1;
  }
  require(counts.nextUsed(from, counts.clusters()) == counts.clusters());
  require(counts.usedEnd() == end);
  require(counts.bytes() <= kLimit);
}

void checkBlocks(const ReferenceCounts& counts, const Model& model, unsigned order, uint64_t firstCluster) {
  std::vector<unsigned char> block(512);
  const MutableBytes view{block.data(), block.size()};
  const uint64_t misfit = fillBlock(counts, view, order, firstCluster);
  const uint64_t end = std::min(misfit, firstCluster + refcountsIn(block.size(), order));
  for (uint64_t cluster = firstCluster; cluster < end; ++cluster) {
    require(refcountGet(view, order, static_cast<size_t>(cluster - firstCluster)) == model.get(cluster));
  }
  if (misfit != kAllFit) {
    require(model.get(misfit) > maxRefcount(order));
    return;
  }
  double mismatches[4 * kMismatchStride];
  require(compareBlock(counts, view, order, firstCluster, 0, {mismatches, std::size(mismatches)}) == 0);
  require(addToBlock(counts, view, order, firstCluster, true) == kAllFit);
  const size_t entries = static_cast<size_t>(refcountsIn(block.size(), order));
  require(refcountNextUsed(view, order, 0, entries) == entries);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto bits = input.ConsumeIntegral<uint8_t>();
  const L2Format format = fuzz::formatFrom(bits, input.ConsumeIntegral<uint8_t>());
  const uint64_t clusters = input.ConsumeIntegralInRange<uint64_t>(1, 300000);
  const auto counts = ReferenceCounts::create(clusters, format.clusterBits, kLimit);
  require(counts != nullptr);
  Model model(clusters);
  bool complete = true;
  for (uint64_t number = 0; number < 4 && input.remaining_bytes() > 0; ++number) {
    const uint64_t times = input.ConsumeBool() ? 1 : input.ConsumeIntegral<uint64_t>();
    const auto entries = input.ConsumeIntegralInRange<size_t>(1, 32);
    std::vector<unsigned char> table = input.ConsumeBytes<unsigned char>(entries * format.entrySize());
    table.resize(entries * format.entrySize());
    const Bytes view{table.data(), table.size()};
    L2Summary summary;
    double problems[3 * kProblemStride];
    const Counted done =
        addL2Table(*counts, format, view, number, times, summary, {problems, std::size(problems)});
    complete = complete && done == Counted::all;
    model.addTable(format, view, times);
    double wrong[3 * kCopiedStride];
    require(copiedMismatches(*counts, format, view, 0, {wrong, std::size(wrong)}) <= 3);
  }
  // Where the memory did not suffice, what was counted is not told to be all.
  if (!complete) return 0;
  checkCounts(*counts, model);
  const auto order = input.ConsumeIntegralInRange<unsigned>(0, kMaxRefcountOrder);
  checkBlocks(*counts, model, order, input.ConsumeIntegralInRange<uint64_t>(0, clusters));
  return 0;
}
