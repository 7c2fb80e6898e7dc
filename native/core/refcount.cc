// Refcounts of 1 to 64 bits in a refcount block.
#include "core/refcount.h"

#include <cstring>

#include "core/endian.h"

namespace qcow2 {
namespace {

// One access class for each width, so that loops are compiled for each and have no switch inside.
template <unsigned order>
struct Width {
  static constexpr uint64_t kMax = maxRefcount(order);
  static constexpr size_t kPerWord = 64u >> order;

  static uint64_t get(const unsigned char* block, size_t index) {
    if constexpr (order < 3) {
      const size_t bit = index << order;
      return (block[bit >> 3] >> (bit & 7)) & kMax;
    } else if constexpr (order == 3) {
      return block[index];
    } else if constexpr (order == 4) {
      return loadBig<uint16_t>(block + index * 2);
    } else if constexpr (order == 5) {
      return loadBig<uint32_t>(block + index * 4);
    } else {
      return loadBig<uint64_t>(block + index * 8);
    }
  }

  static void set(unsigned char* block, size_t index, uint64_t value) {
    if constexpr (order < 3) {
      const size_t bit = index << order;
      const unsigned shift = bit & 7;
      const unsigned kept = block[bit >> 3] & ~(static_cast<unsigned>(kMax) << shift);
      block[bit >> 3] = static_cast<unsigned char>(kept | static_cast<unsigned>(value) << shift);
    } else if constexpr (order == 3) {
      block[index] = static_cast<unsigned char>(value);
    } else if constexpr (order == 4) {
      storeBig(block + index * 2, static_cast<uint16_t>(value));
    } else if constexpr (order == 5) {
      storeBig(block + index * 4, static_cast<uint32_t>(value));
    } else {
      storeBig(block + index * 8, value);
    }
  }

  // Whether a word of refcounts holds one that is 0. The order of bytes does not matter for this question.
  static bool hasZero(uint64_t word) {
    constexpr uint64_t low = ~uint64_t{0} / kMax;
    constexpr uint64_t high = low << ((1u << order) - 1);
    return ((word - low) & ~word & high) != 0;
  }
};

// Calls use(Width<order>()).
template <typename Use>
auto withWidth(unsigned order, const Use& use) {
  switch (order) {
    case 0:
      return use(Width<0>());
    case 1:
      return use(Width<1>());
    case 2:
      return use(Width<2>());
    case 3:
      return use(Width<3>());
    case 4:
      return use(Width<4>());
    case 5:
      return use(Width<5>());
    default:
      return use(Width<6>());
  }
}

// Checks once that the indexes lie inside the block.
template <typename View>
auto* checked(View block, unsigned order, size_t end) {
  if (end > refcountsIn(block.size(), order)) std::abort();
  return block.data();
}

// The first index in [first, end) that is wanted; words of which skip() says that they hold none are passed
// over whole.
template <typename W, typename Wanted, typename Skip>
size_t scan(const unsigned char* data, size_t first, size_t end, const Wanted& wanted, const Skip& skip) {
  size_t index = first;
  while (index < end) {
    if (index % W::kPerWord == 0 && end - index >= W::kPerWord) {
      uint64_t word;
      std::memcpy(&word, data + index / W::kPerWord * 8, sizeof word);
      if (skip(word)) {
        index += W::kPerWord;
        continue;
      }
    }
    if (wanted(W::get(data, index))) return index;
    ++index;
  }
  return end;
}

}  // namespace

uint64_t refcountGet(Bytes block, unsigned order, size_t index) {
  const unsigned char* data = checked(block, order, index + 1);
  return withWidth(order, [&](auto width) { return decltype(width)::get(data, index); });
}

void refcountSet(MutableBytes block, unsigned order, size_t first, size_t count, uint64_t value) {
  unsigned char* data = checked(block, order, first + count);
  withWidth(order, [&](auto width) {
    for (size_t index = first; index < first + count; ++index) decltype(width)::set(data, index, value);
  });
}

size_t refcountAdd(MutableBytes block, unsigned order, size_t first, size_t count, bool subtract,
                   uint64_t magnitude) {
  unsigned char* data = checked(block, order, first + count);
  return withWidth(order, [&](auto width) {
    using W = decltype(width);
    for (size_t index = first; index < first + count; ++index) {
      const uint64_t room = subtract ? W::get(data, index) : W::kMax - W::get(data, index);
      if (magnitude > room) return index;
    }
    const uint64_t addend = subtract ? ~magnitude + 1 : magnitude;
    for (size_t index = first; index < first + count; ++index) {
      W::set(data, index, W::get(data, index) + addend);
    }
    return kAllAdded;
  });
}

size_t refcountNextFree(Bytes block, unsigned order, size_t first, size_t end) {
  const unsigned char* data = checked(block, order, end);
  return withWidth(order, [&](auto width) {
    using W = decltype(width);
    return scan<W>(
        data, first, end, [](uint64_t count) { return count == 0; },
        [](uint64_t word) { return !W::hasZero(word); });
  });
}

size_t refcountNextUsed(Bytes block, unsigned order, size_t first, size_t end) {
  const unsigned char* data = checked(block, order, end);
  return withWidth(order, [&](auto width) {
    return scan<decltype(width)>(
        data, first, end, [](uint64_t count) { return count != 0; }, [](uint64_t word) { return word == 0; });
  });
}

size_t refcountRunEnd(Bytes block, unsigned order, size_t first, size_t end) {
  const unsigned char* data = checked(block, order, end);
  return withWidth(order, [&](auto width) {
    using W = decltype(width);
    const uint64_t value = W::get(data, first);
    size_t index = first + 1;
    while (index < end && W::get(data, index) == value) ++index;
    return index;
  });
}

size_t refcountCountUsed(Bytes block, unsigned order, size_t first, size_t end) {
  const unsigned char* data = checked(block, order, end);
  return withWidth(order, [&](auto width) {
    size_t used = 0;
    for (size_t index = first; index < end; ++index) used += decltype(width)::get(data, index) != 0;
    return used;
  });
}

}  // namespace qcow2
