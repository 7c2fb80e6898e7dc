// What can come of decoding or encoding one cluster.
#ifndef QCOW2_CORE_CODEC_RESULT_H_
#define QCOW2_CORE_CODEC_RESULT_H_

#include <cstddef>
#include <cstdint>

namespace qcow2 {

// The numbers are part of the addon's interface (DecodeResult in lib/native/codecs.ts).
enum class DecodeResult : uint8_t {
  kOk = 0,
  // No stream of this codec, or one with errors inside.
  kDamaged = 1,
  // The streams end before the cluster is full, or the input ends inside one.
  kTooShort = 2,
  // The stream goes on after the cluster is full.
  kTooLong = 3,
  kNoMemory = 4,
  // The codec was not compiled in. The binding asks hasCodec() first.
  kUnavailable = 5,
};

constexpr size_t kDoesNotFit = 0;
// Memory ran out, or the codec was not compiled in.
constexpr size_t kEncodeFailed = SIZE_MAX;

}  // namespace qcow2

#endif  // QCOW2_CORE_CODEC_RESULT_H_
