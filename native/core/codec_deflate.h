// Raw deflate streams (RFC 1951, no zlib header): compression type 0.
#ifndef QCOW2_CORE_CODEC_DEFLATE_H_
#define QCOW2_CORE_CODEC_DEFLATE_H_

#include <cstddef>
#include <memory>

#include "core/codec_isal.h"
#include "core/codec_result.h"
#include "core/span.h"

struct libdeflate_compressor;
struct libdeflate_decompressor;

namespace qcow2 {

class DeflateContext {
 public:
  static constexpr int kHighestLevel = 12;
  static bool available();

  // Bytes after the end of the stream are ignored. A stream that goes on after `out` is full is kTooLong:
  // qemu-img 7.2 reads such a cluster, but here it is taken for damage. A stream without its final block is
  // kDamaged; qemu-img refused the one that was tried.
  DecodeResult decode(Bytes in, MutableBytes out);
  // Level 1 is ISA-L's where that was compiled in.
  size_t encode(int level, Bytes in, MutableBytes out);

 private:
  struct FreeCompressor {
    void operator()(libdeflate_compressor* compressor) const;
  };
  struct FreeDecompressor {
    void operator()(libdeflate_decompressor* decompressor) const;
  };

  std::unique_ptr<libdeflate_decompressor, FreeDecompressor> decompressor_;
  std::unique_ptr<libdeflate_compressor, FreeCompressor> compressor_;
  [[maybe_unused]] IsalEncoder isal_;
  // What compressor_ was made for.
  [[maybe_unused]] int level_ = 0;
};

}  // namespace qcow2

#endif  // QCOW2_CORE_CODEC_DEFLATE_H_
