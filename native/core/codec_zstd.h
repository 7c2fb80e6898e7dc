// Zstandard frames (RFC 8878): compression type 1.
#ifndef QCOW2_CORE_CODEC_ZSTD_H_
#define QCOW2_CORE_CODEC_ZSTD_H_

#include <cstddef>
#include <memory>

#include "core/codec_result.h"
#include "core/span.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace qcow2 {

class ZstdContext {
 public:
  static constexpr int kHighestLevel = 22;
  static bool available();

  // Decodes frame after frame until `out` is full; what follows is ignored. Each frame is decoded straight
  // into `out`, so the window size that a frame claims costs no memory and is not limited.
  DecodeResult decode(Bytes in, MutableBytes out);
  size_t encode(int level, Bytes in, MutableBytes out);

 private:
  struct FreeCompressor {
    void operator()(ZSTD_CCtx_s* compressor) const;
  };
  struct FreeDecompressor {
    void operator()(ZSTD_DCtx_s* decompressor) const;
  };

  std::unique_ptr<ZSTD_DCtx_s, FreeDecompressor> decompressor_;
  std::unique_ptr<ZSTD_CCtx_s, FreeCompressor> compressor_;
};

}  // namespace qcow2

#endif  // QCOW2_CORE_CODEC_ZSTD_H_
