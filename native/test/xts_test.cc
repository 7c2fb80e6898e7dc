// Tweaks against multiplication done bit by bit, and the other helpers against their definition.
#include "core/xts.h"

#include <cstring>

#include "test/check.h"
#include "test/memory.h"

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Random;

ByteMemory randomBytes(uint64_t seed, size_t size) {
  ByteMemory bytes(size);
  Random random(seed);
  for (size_t at = 0; at < size; ++at) bytes[at] = static_cast<unsigned char>(random.next());
  return bytes;
}

// Times alpha, bytewise as IEEE 1619 writes it down.
void timesAlpha(unsigned char* tweak) {
  unsigned carry = 0;
  for (size_t i = 0; i < kAesBlock; ++i) {
    const unsigned next = tweak[i] >> 7;
    tweak[i] = static_cast<unsigned char>((tweak[i] << 1 | carry) & 0xff);
    carry = next;
  }
  if (carry != 0) tweak[0] = static_cast<unsigned char>(tweak[0] ^ 0x87);
}

constexpr size_t kSectorSizes[] = {16, 48, 512, 4096};

TEST(multipliesTweaks) {
  for (const size_t sector_size : kSectorSizes) {
    const ByteMemory tweaks = randomBytes(sector_size, 7 * kAesBlock);
    ByteMemory masks(7 * sector_size);
    xtsMasks(tweaks, sector_size, masks);
    for (size_t sector = 0; sector < 7; ++sector) {
      unsigned char tweak[kAesBlock];
      std::memcpy(tweak, &tweaks[sector * kAesBlock], kAesBlock);
      for (size_t at = 0; at < sector_size; at += kAesBlock) {
        CHECK(std::memcmp(tweak, &masks[sector * sector_size + at], kAesBlock) == 0);
        timesAlpha(tweak);
      }
    }
  }
}

TEST(chainsEachSectorByItself) {
  const size_t sector_size = 48;
  const ByteMemory ecb = randomBytes(1, 3 * sector_size);
  const ByteMemory ciphertext = randomBytes(2, 3 * sector_size);
  const ByteMemory ivs = randomBytes(3, 3 * kAesBlock);
  ByteMemory blocks = randomBytes(1, 3 * sector_size);
  cbcDecryptFinish(blocks, ciphertext, ivs, sector_size);
  for (size_t at = 0; at < blocks.size(); ++at) {
    const size_t sector = at / sector_size;
    const size_t within = at % sector_size;
    const unsigned char before =
        within < kAesBlock ? ivs[sector * kAesBlock + within] : ciphertext[at - kAesBlock];
    CHECK_EQUAL(blocks[at], ecb[at] ^ before);
  }
}

TEST(numbersSectors) {
  ByteMemory out(2 * kAesBlock);
  plain64(0x00fffffffffffffe, out);
  const unsigned char expected[] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  CHECK(std::memcmp(out.view().data(), expected, sizeof expected) == 0);
}

}  // namespace
}  // namespace qcow2
