// Tweaks, vectors and xor over whole buffers.
#include "core/xts.h"

#include <cstring>

namespace qcow2 {

namespace {

// Little-endian words, copied whole: gcc makes a store a byte of the portable shifts, four times slower.
uint64_t swapLittle(uint64_t value) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return __builtin_bswap64(value);
#else
  return value;
#endif
}

uint64_t loadLittle(const unsigned char* at) {
  uint64_t value;
  std::memcpy(&value, at, sizeof value);
  return swapLittle(value);
}

void storeLittle(unsigned char* at, uint64_t value) {
  value = swapLittle(value);
  std::memcpy(at, &value, sizeof value);
}

// x^128 = x^7 + x^2 + x + 1.
constexpr uint64_t kReduction = 0x87;

void expand(Bytes tweak, MutableBytes masks) {
  uint64_t low = loadLittle(tweak.data());
  uint64_t high = loadLittle(tweak.data() + 8);
  for (size_t at = 0; at < masks.size(); at += kAesBlock) {
    storeLittle(masks.data() + at, low);
    storeLittle(masks.data() + at + 8, high);
    const uint64_t overflow = high >> 63;
    high = high << 1 | low >> 63;
    // A branch here would depend on secret bits.
    low = low << 1 ^ (kReduction & (0 - overflow));
  }
}

}  // namespace

void xtsMasks(Bytes tweaks, size_t sector_size, MutableBytes out) {
  for (size_t sector = 0; sector < tweaks.size() / kAesBlock; ++sector) {
    expand(tweaks.subspan(sector * kAesBlock, kAesBlock), out.subspan(sector * sector_size, sector_size));
  }
}

void xorInto(MutableBytes target, Bytes mask) {
  const Bytes same_size = mask.subspan(0, target.size());
  unsigned char* const to = target.data();
  const unsigned char* const from = same_size.data();
  for (size_t i = 0; i < target.size(); ++i) to[i] = static_cast<unsigned char>(to[i] ^ from[i]);
}

void cbcDecryptFinish(MutableBytes blocks, Bytes ciphertext, Bytes ivs, size_t sector_size) {
  const size_t chained = sector_size - kAesBlock;
  for (size_t at = 0, iv = 0; at < blocks.size(); at += sector_size, iv += kAesBlock) {
    xorInto(blocks.subspan(at, kAesBlock), ivs.subspan(iv, kAesBlock));
    xorInto(blocks.subspan(at + kAesBlock, chained), ciphertext.subspan(at, chained));
  }
}

void plain64(uint64_t first_sector, MutableBytes out) {
  for (size_t i = 0; i < out.size() / kAesBlock; ++i) {
    unsigned char* const vector = out.data() + i * kAesBlock;
    storeLittle(vector, first_sector + i);
    storeLittle(vector + 8, 0);
  }
}

}  // namespace qcow2
