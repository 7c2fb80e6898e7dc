// Compressed clusters: one context that decodes and encodes with either of the two codecs of the format.
#ifndef QCOW2_CORE_CODEC_H_
#define QCOW2_CORE_CODEC_H_

#include <cstddef>
#include <cstdint>

#include "core/codec_deflate.h"
#include "core/codec_result.h"
#include "core/codec_zstd.h"
#include "core/span.h"

namespace qcow2 {

// The values of the header field compression_type.
enum class Codec : uint8_t { kDeflate = 0, kZstd = 1 };

// Whether the codec was compiled in.
bool hasCodec(Codec codec);

// The lowest level is 1 for both.
int highestLevel(Codec codec);

// What the codec libraries keep between clusters. Cheap until used, then up to some megabytes; for one thread
// at a time.
class CodecContext {
 public:
  // Decodes one cluster. `in` runs to the end of the last sector, so garbage may follow the stream; `out` is
  // the whole cluster, and nothing but a stream that makes exactly that many bytes is kOk.
  DecodeResult decode(Codec codec, Bytes in, MutableBytes out);

  // Encodes one cluster. Returns the length, kDoesNotFit where `out` is too small for it, or kEncodeFailed.
  // The same cluster and room give the same bytes in every context of a process: lib/streams/compressed.ts
  // encodes twice and counts on that. Another machine or version of the libraries may give others.
  size_t encode(Codec codec, int level, Bytes in, MutableBytes out);

 private:
  DeflateContext deflate_;
  ZstdContext zstd_;
};

}  // namespace qcow2

#endif  // QCOW2_CORE_CODEC_H_
