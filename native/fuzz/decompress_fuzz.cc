// libFuzzer: any bytes decode to a full cluster or a reason, with either codec, and what decodes comes back
// from encoding.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/codec.h"

namespace {

constexpr size_t kCluster = 4096;
constexpr qcow2::Codec kCodecs[] = {qcow2::Codec::kDeflate, qcow2::Codec::kZstd};

void roundTrip(qcow2::CodecContext& context, qcow2::Codec codec, const std::vector<unsigned char>& cluster) {
  std::vector<unsigned char> packed(kCluster - 1);
  const size_t length = context.encode(codec, 1, {cluster.data(), kCluster}, {packed.data(), packed.size()});
  if (length == qcow2::kDoesNotFit) return;
  std::vector<unsigned char> again(kCluster);
  const qcow2::DecodeResult result = context.decode(codec, {packed.data(), length}, {again.data(), kCluster});
  if (result != qcow2::DecodeResult::kOk || again != cluster) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static qcow2::CodecContext context;
  for (const qcow2::Codec codec : kCodecs) {
    // A buffer of exactly one cluster lets AddressSanitizer see a write past it.
    std::vector<unsigned char> cluster(kCluster);
    if (context.decode(codec, {data, size}, {cluster.data(), kCluster}) == qcow2::DecodeResult::kOk) {
      roundTrip(context, codec, cluster);
    }
  }
  return 0;
}
