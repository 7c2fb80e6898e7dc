// How often each host cluster is referenced, counted from the tables of an image: a sparse array of counters.
#ifndef QCOW2_CORE_REFERENCE_COUNTS_H_
#define QCOW2_CORE_REFERENCE_COUNTS_H_

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/span.h"

namespace qcow2 {

// Counters live in pages that are allocated when a cluster of theirs is first counted. A page is laid out as
// a refcount block of 2-bit refcounts, which are enough for nearly every cluster of nearly every image; when
// one of them no longer fits, the whole page is widened to 8, 16, 32 or 64 bits.
class ReferenceCounts {
 public:
  // Counts clusters [0, clusters) of 2^clusterBits bytes each. The page directory and the pages together take
  // at most `limit` bytes. Null when the directory alone takes more.
  static std::unique_ptr<ReferenceCounts> create(uint64_t clusters, unsigned clusterBits, uint64_t limit);

  uint64_t clusters() const { return clusters_; }
  unsigned clusterBits() const { return clusterBits_; }
  // Bytes taken so far.
  uint64_t bytes() const { return bytes_; }

  // Counts `times` references to a cluster below clusters(). False, changing nothing, when the limit would be
  // passed.
  bool add(uint64_t cluster, uint64_t times) {
    Page& page = pages_[cluster >> kPageBits];
    const auto index = static_cast<size_t>(cluster & (kPageClusters - 1));
    if (page.order == kNarrowest) {
      unsigned char& four = page.counts[index >> 2];
      const unsigned shift = (index & 3) * 2;
      const unsigned count = (four >> shift) & kNarrowMax;
      if (times <= kNarrowMax - count) {
        four = static_cast<unsigned char>(four + (times << shift));
        shared_ = shared_ || count + times > 1;
        return true;
      }
    }
    return addSlowly(page, index, times);
  }

  // The same for clusters [first, first + count), all below clusters(). False when the limit would be passed,
  // with some of them counted.
  bool addRun(uint64_t first, uint64_t count, uint64_t times);

  // Whether some cluster was counted more than once.
  bool isShared() const { return shared_; }

  // Where the counter of a cluster (of any number) lies in memory, for prefetching; null when there is none
  // yet.
  const unsigned char* counterOf(uint64_t cluster) const {
    if (cluster >= clusters_) return nullptr;
    const Page& page = pages_[cluster >> kPageBits];
    const uint64_t index = cluster & (kPageClusters - 1);
    return page.order == kAbsent ? nullptr : page.counts.get() + (index << page.order >> 3);
  }

  // Raises the number of clusters; for a file that is about to grow. False when the limit would be passed.
  bool extend(uint64_t clusters);

  // 0 past the last cluster.
  uint64_t get(uint64_t cluster) const {
    if (cluster >= clusters_) return 0;
    const Page& page = pages_[cluster >> kPageBits];
    const auto index = static_cast<size_t>(cluster & (kPageClusters - 1));
    if (page.order == kNarrowest) return (page.counts[index >> 2] >> (index & 3) * 2) & kNarrowMax;
    return getSlowly(page, index);
  }

  // Counters of two bits are looked at in words of 64 bits, of which the lowest two are the first cluster's.
  static constexpr uint64_t kWordClusters = 32;
  static uint64_t loadWord(const unsigned char* at) {
    uint64_t word = 0;
    for (unsigned byte = 0; byte < 8; ++byte) word |= static_cast<uint64_t>(at[byte]) << byte * 8;
    return word;
  }

  // The words from a cluster on whose number is a multiple of kWordClusters, as far as they lie in one page
  // of two-bit counters and are for clusters below clusters(); else nothing.
  Bytes wordsFrom(uint64_t cluster) const {
    if (cluster >= clusters_) return {};
    const Page& page = pages_[cluster >> kPageBits];
    if (page.order != kNarrowest) return {};
    const uint64_t index = cluster & (kPageClusters - 1);
    const uint64_t words = std::min(kPageClusters - index, clusters_ - cluster) / kWordClusters;
    return view(page).subspan(static_cast<size_t>(index >> 2), static_cast<size_t>(words * 8));
  }

  // The first cluster in [first, end) that is counted / not counted, else `end`. Those past the last are not
  // counted.
  uint64_t nextUsed(uint64_t first, uint64_t end) const;
  uint64_t nextFree(uint64_t first, uint64_t end) const;

  // Where the run of clusters that are counted as often as `first`, which is below `end`, is over; at most `end`.
  uint64_t runEnd(uint64_t first, uint64_t end) const;

  // How many clusters in [first, end) are counted.
  uint64_t countUsed(uint64_t first, uint64_t end) const;

  // One past the last counted cluster; 0 when none is.
  uint64_t usedEnd() const;

 private:
  static constexpr unsigned kPageBits = 16;
  static constexpr uint64_t kPageClusters = uint64_t{1} << kPageBits;
  // Refcount order of a fresh page, and of no page at all.
  static constexpr unsigned char kNarrowest = 1;
  static constexpr unsigned kNarrowMax = 3;
  // The order of a page that two bits do not suffice for.
  static constexpr unsigned char kNextNarrowest = 3;
  static constexpr unsigned char kAbsent = 0;

  struct Page {
    std::unique_ptr<unsigned char[]> counts;
    unsigned char order = kAbsent;
  };

  ReferenceCounts(unsigned clusterBits, uint64_t limit) : clusterBits_(clusterBits), limit_(limit) {}

  static constexpr size_t pageBytes(unsigned order) {
    return static_cast<size_t>(kPageClusters << order >> 3);
  }
  static Bytes view(const Page& page) { return {page.counts.get(), pageBytes(page.order)}; }
  static uint64_t getSlowly(const Page& page, size_t index);
  bool addSlowly(Page& page, size_t index, uint64_t times);
  uint64_t addWords(uint64_t first, uint64_t end, uint64_t times);
  bool widen(Page& page, unsigned char order);
  template <typename InPage>
  uint64_t scan(uint64_t first, uint64_t end, bool absentMatches, const InPage& inPage) const;

  unsigned clusterBits_;
  uint64_t limit_;
  uint64_t clusters_ = 0;
  uint64_t bytes_ = 0;
  uint64_t pageCount_ = 0;
  bool shared_ = false;
  std::unique_ptr<Page[]> pages_;
};

}  // namespace qcow2

#endif  // QCOW2_CORE_REFERENCE_COUNTS_H_
