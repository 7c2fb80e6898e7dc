// libFuzzer: what either codec encodes, at any level and into any room, decodes to the same bytes again.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <vector>

#include "core/codec.h"

namespace {

// Bytes with the repetitions that compression lives on.
std::vector<unsigned char> cluster(FuzzedDataProvider& input) {
  std::vector<unsigned char> bytes;
  while (input.remaining_bytes() > 0 && bytes.size() < 65536) {
    const std::vector<unsigned char> piece =
        input.ConsumeBytes<unsigned char>(input.ConsumeIntegralInRange<size_t>(1, 64));
    for (unsigned times = input.ConsumeIntegralInRange<unsigned>(1, 100); times > 0; --times) {
      bytes.insert(bytes.end(), piece.begin(), piece.end());
    }
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static qcow2::CodecContext context;
  FuzzedDataProvider input(data, size);
  const qcow2::Codec codec = input.PickValueInArray({qcow2::Codec::kDeflate, qcow2::Codec::kZstd});
  const int level = input.ConsumeIntegralInRange<int>(1, qcow2::highestLevel(codec));
  const size_t percent = input.ConsumeIntegralInRange<size_t>(0, 110);
  const std::vector<unsigned char> plain = cluster(input);
  if (plain.empty()) return 0;
  // A buffer of exactly the room there is lets AddressSanitizer see a write past it.
  std::vector<unsigned char> packed(plain.size() * percent / 100);
  const size_t length =
      context.encode(codec, level, {plain.data(), plain.size()}, {packed.data(), packed.size()});
  if (length == qcow2::kDoesNotFit) return 0;
  if (length == qcow2::kEncodeFailed || length > packed.size()) std::abort();
  packed.resize(length);
  packed.shrink_to_fit();
  std::vector<unsigned char> again(plain.size());
  const qcow2::DecodeResult result =
      context.decode(codec, {packed.data(), packed.size()}, {again.data(), again.size()});
  if (result != qcow2::DecodeResult::kOk || again != plain) std::abort();
  return 0;
}
