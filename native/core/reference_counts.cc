// How often each host cluster is referenced, counted from the tables of an image: a sparse array of counters.
#include "core/reference_counts.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "core/refcount.h"

namespace qcow2 {

std::unique_ptr<ReferenceCounts> ReferenceCounts::create(uint64_t clusters, unsigned clusterBits,
                                                         uint64_t limit) {
  std::unique_ptr<ReferenceCounts> counts(new ReferenceCounts(clusterBits, limit));
  if (!counts->extend(clusters)) return nullptr;
  return counts;
}

bool ReferenceCounts::extend(uint64_t clusters) {
  if (clusters <= clusters_) return true;
  const uint64_t pages = ((clusters - 1) >> kPageBits) + 1;
  if (pages > pageCount_) {
    const uint64_t more = (pages - pageCount_) * sizeof(Page);
    if (more > limit_ || bytes_ > limit_ - more) return false;
    std::unique_ptr<Page[]> directory(new (std::nothrow) Page[static_cast<size_t>(pages)]);
    if (!directory) return false;
    std::move(pages_.get(), pages_.get() + pageCount_, directory.get());
    pages_ = std::move(directory);
    pageCount_ = pages;
    bytes_ += more;
  }
  clusters_ = clusters;
  return true;
}

bool ReferenceCounts::widen(Page& page, unsigned char order) {
  const size_t freed = page.order == kAbsent ? 0 : pageBytes(page.order);
  const size_t taken = pageBytes(order);
  const uint64_t rest = bytes_ - freed;
  if (taken > limit_ || rest > limit_ - taken) return false;
  std::unique_ptr<unsigned char[]> counts(new (std::nothrow) unsigned char[taken]());
  if (!counts) return false;
  const MutableBytes wide(counts.get(), taken);
  if (page.order != kAbsent) {
    for (size_t index = 0; index < kPageClusters; ++index) {
      refcountSet(wide, order, index, 1, refcountGet(view(page), page.order, index));
    }
  }
  page = {std::move(counts), order};
  bytes_ = rest + taken;
  return true;
}

bool ReferenceCounts::addSlowly(Page& page, size_t index, uint64_t times) {
  const uint64_t before = page.order == kAbsent ? 0 : refcountGet(view(page), page.order, index);
  // Counts that no image can reach stay at the largest one.
  const uint64_t sum = times > ~uint64_t{0} - before ? ~uint64_t{0} : before + times;
  unsigned char order = std::max(page.order, kNarrowest);
  if (sum > maxRefcount(order)) order = std::max(order, kNextNarrowest);
  while (sum > maxRefcount(order)) ++order;
  if (order != page.order && !widen(page, order)) return false;
  refcountSet({page.counts.get(), pageBytes(order)}, order, index, 1, sum);
  shared_ = shared_ || sum > 1;
  return true;
}

// Counts clusters from `first` on, below `end`, that were not counted before, in whole words of two-bit
// counters. Returns how many.
uint64_t ReferenceCounts::addWords(uint64_t first, uint64_t end, uint64_t times) {
  Page& page = pages_[first >> kPageBits];
  const uint64_t index = first & (kPageClusters - 1);
  if (page.order != kNarrowest || index % kWordClusters != 0 || times > kNarrowMax) return 0;
  const uint64_t words = std::min(kPageClusters - index, end - first) / kWordClusters;
  unsigned char* const at = page.counts.get() + (index >> 2);
  uint64_t done = 0;
  while (done < words && loadWord(at + done * 8) == 0) {
    std::memset(at + done * 8, static_cast<unsigned char>(times * 0x55), 8);
    ++done;
  }
  shared_ = shared_ || (done > 0 && times > 1);
  return done * kWordClusters;
}

bool ReferenceCounts::addRun(uint64_t first, uint64_t count, uint64_t times) {
  const uint64_t end = first + count;
  for (uint64_t at = first; at < end;) {
    at += addWords(at, end, times);
    const uint64_t stop = std::min(end, (at / kWordClusters + 1) * kWordClusters);
    for (; at < stop; ++at) {
      if (!add(at, times)) return false;
    }
  }
  return true;
}

uint64_t ReferenceCounts::getSlowly(const Page& page, size_t index) {
  return page.order == kAbsent ? 0 : refcountGet(view(page), page.order, index);
}

// Looks for a cluster page by page; inPage(page, first, end) is asked about the pages that exist.
template <typename InPage>
uint64_t ReferenceCounts::scan(uint64_t first, uint64_t end, bool absentMatches, const InPage& inPage) const {
  const uint64_t stop = std::min(end, clusters_);
  for (uint64_t at = first; at < stop;) {
    const uint64_t base = at & ~(kPageClusters - 1);
    const uint64_t pageEnd = std::min(stop, base + kPageClusters);
    const Page& page = pages_[at >> kPageBits];
    if (page.order != kAbsent) {
      const uint64_t found =
          base + inPage(page, static_cast<size_t>(at - base), static_cast<size_t>(pageEnd - base));
      if (found < pageEnd) return found;
    } else if (absentMatches) {
      return at;
    }
    at = pageEnd;
  }
  return absentMatches ? std::min(end, std::max(first, stop)) : end;
}

uint64_t ReferenceCounts::nextUsed(uint64_t first, uint64_t end) const {
  return scan(first, end, false, [](const Page& page, size_t from, size_t to) {
    return refcountNextUsed(view(page), page.order, from, to);
  });
}

uint64_t ReferenceCounts::nextFree(uint64_t first, uint64_t end) const {
  return scan(first, end, true, [](const Page& page, size_t from, size_t to) {
    return refcountNextFree(view(page), page.order, from, to);
  });
}

uint64_t ReferenceCounts::runEnd(uint64_t first, uint64_t end) const {
  const uint64_t count = get(first);
  const uint64_t word = count <= kNarrowMax ? count * 0x5555555555555555 : 0;
  uint64_t at = first + 1;
  while (at < end && get(at) == count) {
    ++at;
    if (at % kWordClusters != 0 || count > kNarrowMax) continue;
    const Bytes words = wordsFrom(at);
    size_t alike = 0;
    while (alike < words.size() && loadWord(words.data() + alike) == word) alike += 8;
    at += alike / 8 * kWordClusters;
  }
  return std::min(at, end);
}

uint64_t ReferenceCounts::countUsed(uint64_t first, uint64_t end) const {
  const uint64_t stop = std::min(end, clusters_);
  uint64_t used = 0;
  for (uint64_t at = first; at < stop;) {
    const uint64_t base = at & ~(kPageClusters - 1);
    const uint64_t pageEnd = std::min(stop, base + kPageClusters);
    const Page& page = pages_[at >> kPageBits];
    if (page.order != kAbsent) {
      used += refcountCountUsed(view(page), page.order, static_cast<size_t>(at - base),
                                static_cast<size_t>(pageEnd - base));
    }
    at = pageEnd;
  }
  return used;
}

uint64_t ReferenceCounts::usedEnd() const {
  for (uint64_t number = pageCount_; number-- > 0;) {
    const Page& page = pages_[number];
    if (page.order == kAbsent) continue;
    for (size_t index = kPageClusters; index-- > 0;) {
      if (refcountGet(view(page), page.order, index) != 0) return (number << kPageBits) + index + 1;
    }
  }
  return 0;
}

}  // namespace qcow2
