// Deflate by libdeflate, which inflates a cluster in one call.
#include "core/codec_deflate.h"

#ifndef QCOW2_NO_LIBDEFLATE
#include <libdeflate.h>
#endif

namespace qcow2 {

#ifndef QCOW2_NO_LIBDEFLATE

bool DeflateContext::available() { return true; }

void DeflateContext::FreeCompressor::operator()(libdeflate_compressor* compressor) const {
  libdeflate_free_compressor(compressor);
}

void DeflateContext::FreeDecompressor::operator()(libdeflate_decompressor* decompressor) const {
  libdeflate_free_decompressor(decompressor);
}

DecodeResult DeflateContext::decode(Bytes in, MutableBytes out) {
  if (!decompressor_) decompressor_.reset(libdeflate_alloc_decompressor());
  if (!decompressor_) return DecodeResult::kNoMemory;
  size_t made = 0;
  const libdeflate_result result =
      libdeflate_deflate_decompress(decompressor_.get(), in.data(), in.size(), out.data(), out.size(), &made);
  if (result == LIBDEFLATE_INSUFFICIENT_SPACE) return DecodeResult::kTooLong;
  if (result != LIBDEFLATE_SUCCESS) return DecodeResult::kDamaged;
  return made == out.size() ? DecodeResult::kOk : DecodeResult::kTooShort;
}

size_t DeflateContext::encode(int level, Bytes in, MutableBytes out) {
  if (level == 1 && IsalEncoder::available()) return isal_.encode(in, out);
  if (!compressor_ || level_ != level) {
    compressor_.reset(libdeflate_alloc_compressor(level));
    if (!compressor_) return kEncodeFailed;
    level_ = level;
  }
  static_assert(kDoesNotFit == 0, "libdeflate returns 0 when the output is too small");
  return libdeflate_deflate_compress(compressor_.get(), in.data(), in.size(), out.data(), out.size());
}

#else

bool DeflateContext::available() { return false; }
void DeflateContext::FreeCompressor::operator()(libdeflate_compressor*) const {}
void DeflateContext::FreeDecompressor::operator()(libdeflate_decompressor*) const {}
DecodeResult DeflateContext::decode(Bytes, MutableBytes) { return DecodeResult::kUnavailable; }
size_t DeflateContext::encode(int, Bytes, MutableBytes) { return kEncodeFailed; }

#endif

}  // namespace qcow2
