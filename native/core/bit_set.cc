// Sets of numbers as bits.
#include "core/bit_set.h"

#include <algorithm>
#include <cstring>

#include "core/bits.h"

namespace qcow2 {
namespace {

constexpr uint64_t kWordBits = 64;
constexpr size_t kWordBytes = kWordBits / 8;

// Eight bytes of which the first holds the lowest bits, whatever the machine's order.
uint64_t loadWord(const unsigned char* at) {
  uint64_t word = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  for (size_t i = kWordBytes; i-- > 0;) word = word << 8 | at[i];
#else
  std::memcpy(&word, at, sizeof word);
#endif
  return word;
}

// The word from byte `at` on; what is past the end is filled with `padding` (0 or all ones).
uint64_t wordAt(Bytes bits, size_t at, uint64_t padding) {
  if (bits.size() - at >= kWordBytes) return loadWord(bits.data() + at);
  unsigned char bytes[kWordBytes];
  std::memset(bytes, static_cast<int>(padding & 0xff), sizeof bytes);
  std::memcpy(bytes, bits.data() + at, bits.size() - at);
  return loadWord(bytes);
}

unsigned onesIn(uint64_t word) {
#if defined(_MSC_VER)
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<unsigned>((word * 0x0101010101010101) >> 56);
#else
  return static_cast<unsigned>(__builtin_popcountll(word));
#endif
}

void apply(unsigned char& byte, unsigned mask, bool value) {
  byte = static_cast<unsigned char>(value ? byte | mask : byte & ~mask);
}

}  // namespace

void setBits(MutableBytes bits, uint64_t first, uint64_t end, bool value) {
  if (first >= end) return;
  const auto firstByte = static_cast<size_t>(first / 8);
  const auto lastByte = static_cast<size_t>((end - 1) / 8);
  const unsigned head = 0xffu << (first % 8) & 0xffu;
  const unsigned tail = 0xffu >> (7 - (end - 1) % 8);
  if (firstByte == lastByte) {
    apply(bits[firstByte], head & tail, value);
    return;
  }
  apply(bits[firstByte], head, value);
  std::memset(bits.data() + firstByte + 1, value ? 0xff : 0, lastByte - firstByte - 1);
  apply(bits[lastByte], tail, value);
}

uint64_t countBits(Bytes bits, uint64_t first, uint64_t end) {
  uint64_t count = 0;
  for (uint64_t at = first / kWordBits * kWordBits; at < end; at += kWordBits) {
    uint64_t word = wordAt(bits, static_cast<size_t>(at / 8), 0);
    if (at < first) word &= ~uint64_t{0} << (first - at);
    if (end - at < kWordBits) word &= (uint64_t{1} << (end - at)) - 1;
    count += onesIn(word);
  }
  return count;
}

uint64_t nextBit(Bytes bits, uint64_t first, uint64_t end, bool value) {
  const uint64_t flip = value ? 0 : ~uint64_t{0};
  for (uint64_t at = first / kWordBits * kWordBits; at < end; at += kWordBits) {
    uint64_t word = wordAt(bits, static_cast<size_t>(at / 8), flip) ^ flip;
    if (at < first) word &= ~uint64_t{0} << (first - at);
    if (word != 0) return std::min(end, at + lowestBit(word));
  }
  return end;
}

void combineBits(MutableBytes target, Bytes source, BitOperation operation) {
  const size_t length = std::min(target.size(), source.size());
  unsigned char* to = target.data();
  const unsigned char* from = source.data();
  // Plain loops, one for each operation, which compilers turn into vector code.
  switch (operation) {
    case BitOperation::kUnite:
      for (size_t i = 0; i < length; ++i) to[i] = static_cast<unsigned char>(to[i] | from[i]);
      break;
    case BitOperation::kIntersect:
      for (size_t i = 0; i < length; ++i) to[i] = static_cast<unsigned char>(to[i] & from[i]);
      break;
    case BitOperation::kSubtract:
      for (size_t i = 0; i < length; ++i) to[i] = static_cast<unsigned char>(to[i] & ~from[i]);
      break;
  }
}

}  // namespace qcow2
