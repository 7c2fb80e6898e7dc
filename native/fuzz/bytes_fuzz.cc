// libFuzzer: finding zeros, XTS masks and CBC do what a loop over single bytes and bits does.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "core/xts.h"
#include "core/zero.h"

namespace {

using namespace qcow2;
using Buffer = std::vector<unsigned char>;

void require(bool holds) {
  if (!holds) std::abort();
}

bool plainIsZero(const Buffer& bytes, size_t start, size_t end) {
  for (size_t at = start; at < end; ++at) {
    if (bytes[at] != 0) return false;
  }
  return true;
}

std::vector<double> plainRuns(const Buffer& bytes, size_t granularity) {
  std::vector<double> ends;
  bool zero = false;
  for (size_t at = 0; at < bytes.size(); at += granularity) {
    const size_t end = std::min(bytes.size(), at + granularity);
    if (plainIsZero(bytes, at, end) != zero) {
      ends.push_back(static_cast<double>(at));
      zero = !zero;
    }
  }
  if (!bytes.empty()) ends.push_back(static_cast<double>(bytes.size()));
  return ends;
}

void fuzzZeros(FuzzedDataProvider& input) {
  const size_t granularity = input.ConsumeIntegralInRange<size_t>(1, 600);
  Buffer bytes;
  while (input.remaining_bytes() > 0 && bytes.size() < 16384) {
    const size_t length = input.ConsumeIntegralInRange<size_t>(0, 1500);
    bytes.insert(bytes.end(), length, 0);
    const Buffer some = input.ConsumeBytes<unsigned char>(input.ConsumeIntegralInRange<size_t>(0, 9));
    bytes.insert(bytes.end(), some.begin(), some.end());
  }
  bytes.shrink_to_fit();
  require(isZero({bytes.data(), bytes.size()}) == plainIsZero(bytes, 0, bytes.size()));
  const std::vector<double> expected = plainRuns(bytes, granularity);
  std::vector<double> ends(expected.size() + 1);
  const size_t count = zeroRuns({bytes.data(), bytes.size()}, granularity, {ends.data(), ends.size()});
  ends.resize(count);
  require(ends == expected);
}

// Multiplies by alpha in GF(2^128), the first byte being the lowest.
void timesAlpha(unsigned char* block) {
  unsigned carry = 0;
  for (size_t at = 0; at < kAesBlock; ++at) {
    const unsigned next = block[at] >> 7;
    block[at] = static_cast<unsigned char>(block[at] << 1 | carry);
    carry = next;
  }
  if (carry != 0) block[0] ^= 0x87;
}

void fuzzMasks(FuzzedDataProvider& input) {
  const size_t sectors = input.ConsumeIntegralInRange<size_t>(0, 5);
  const size_t sectorSize = kAesBlock * input.ConsumeIntegralInRange<size_t>(1, 40);
  Buffer tweaks = input.ConsumeBytes<unsigned char>(sectors * kAesBlock);
  tweaks.resize(sectors * kAesBlock);
  Buffer masks(sectors * sectorSize);
  xtsMasks({tweaks.data(), tweaks.size()}, sectorSize, {masks.data(), masks.size()});
  Buffer expected;
  for (size_t sector = 0; sector < sectors; ++sector) {
    unsigned char* tweak = tweaks.data() + sector * kAesBlock;
    for (size_t block = 0; block < sectorSize / kAesBlock; ++block) {
      expected.insert(expected.end(), tweak, tweak + kAesBlock);
      timesAlpha(tweak);
    }
  }
  require(masks == expected);
  Buffer target = input.ConsumeBytes<unsigned char>(masks.size());
  target.resize(masks.size());
  Buffer mixed = target;
  xorInto({mixed.data(), mixed.size()}, {masks.data(), masks.size()});
  for (size_t at = 0; at < mixed.size(); ++at) require(mixed[at] == (target[at] ^ masks[at]));
}

void fuzzCbc(FuzzedDataProvider& input) {
  const size_t sectors = input.ConsumeIntegralInRange<size_t>(0, 5);
  const size_t sectorSize = kAesBlock * input.ConsumeIntegralInRange<size_t>(1, 33);
  Buffer ivs(sectors * kAesBlock);
  plain64(input.ConsumeIntegral<uint32_t>(), {ivs.data(), ivs.size()});
  Buffer cipher = input.ConsumeBytes<unsigned char>(sectors * sectorSize);
  cipher.resize(sectors * sectorSize);
  Buffer blocks = input.ConsumeBytes<unsigned char>(cipher.size());
  blocks.resize(cipher.size());
  Buffer result = blocks;
  cbcDecryptFinish({result.data(), result.size()}, {cipher.data(), cipher.size()}, {ivs.data(), ivs.size()},
                   sectorSize);
  for (size_t at = 0; at < blocks.size(); ++at) {
    const size_t inSector = at % sectorSize;
    const unsigned char chained =
        inSector < kAesBlock ? ivs[at / sectorSize * kAesBlock + inSector] : cipher[at - kAesBlock];
    require(result[at] == (blocks[at] ^ chained));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  switch (input.ConsumeIntegralInRange<int>(0, 2)) {
    case 0:
      fuzzZeros(input);
      break;
    case 1:
      fuzzMasks(input);
      break;
    default:
      fuzzCbc(input);
  }
  return 0;
}
