// Finding the zeros in data.
#include "core/zero.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace qcow2 {
namespace {

// Data is looked at in blocks of this size: without branches inside, which compilers turn into vector code,
// and with an early exit between two of them.
constexpr size_t kBlock = 256;

bool isZeroBlock(const unsigned char* block) {
  uint64_t seen = 0;
  for (size_t at = 0; at < kBlock; at += 8) {
    uint64_t word;
    std::memcpy(&word, block + at, sizeof word);
    seen |= word;
  }
  return seen == 0;
}

}  // namespace

bool isZero(Bytes data) {
  // Non-zero data mostly shows in its first bytes.
  const size_t head = std::min<size_t>(data.size(), 16);
  for (size_t at = 0; at < head; ++at) {
    if (data[at] != 0) return false;
  }
  size_t at = 0;
  for (; data.size() - at >= kBlock; at += kBlock) {
    if (!isZeroBlock(data.data() + at)) return false;
  }
  unsigned char seen = 0;
  for (; at < data.size(); ++at) seen = static_cast<unsigned char>(seen | data[at]);
  return seen == 0;
}

bool isSame(Bytes a, Bytes b) {
  if (a.size() == 0) return isZero(b);
  if (b.size() == 0) return isZero(a);
  return std::memcmp(a.data(), b.data(), a.size()) == 0;
}

size_t zeroRuns(Bytes data, size_t granularity, Span<double> out) {
  size_t ends = 0;
  bool inZeros = false;
  for (size_t at = 0; at < data.size();) {
    const size_t length = std::min(granularity, data.size() - at);
    if (isZero(data.subspan(at, length)) != inZeros) {
      if (ends == out.size()) return ends;
      out[ends++] = static_cast<double>(at);
      inZeros = !inZeros;
    }
    at += length;
  }
  if (data.size() != 0 && ends < out.size()) out[ends++] = static_cast<double>(data.size());
  return ends;
}

}  // namespace qcow2
