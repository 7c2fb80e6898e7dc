// Zstandard by libzstd, through contexts that are kept.
#include "core/codec_zstd.h"

#ifndef QCOW2_NO_ZSTD
#include <zstd.h>
#include <zstd_errors.h>

#include <cstdint>
#endif

namespace qcow2 {

#ifndef QCOW2_NO_ZSTD

namespace {

// libzstd would also read the frames of versions before 1.0; the format allows only today's and skippable
// ones.
bool startsFrame(Bytes in) {
  if (in.size() < 4) return false;
  const uint32_t magic = static_cast<uint32_t>(in[0]) | static_cast<uint32_t>(in[1]) << 8 |
                         static_cast<uint32_t>(in[2]) << 16 | static_cast<uint32_t>(in[3]) << 24;
  return magic == ZSTD_MAGICNUMBER || (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

DecodeResult meaning(size_t error) {
  switch (ZSTD_getErrorCode(error)) {
    case ZSTD_error_srcSize_wrong:
      return DecodeResult::kTooShort;
    case ZSTD_error_dstSize_tooSmall:
      return DecodeResult::kTooLong;
    case ZSTD_error_memory_allocation:
      return DecodeResult::kNoMemory;
    default:
      return DecodeResult::kDamaged;
  }
}

}  // namespace

bool ZstdContext::available() { return true; }

void ZstdContext::FreeCompressor::operator()(ZSTD_CCtx_s* compressor) const { ZSTD_freeCCtx(compressor); }

void ZstdContext::FreeDecompressor::operator()(ZSTD_DCtx_s* decompressor) const {
  ZSTD_freeDCtx(decompressor);
}

DecodeResult ZstdContext::decode(Bytes in, MutableBytes out) {
  if (!decompressor_) decompressor_.reset(ZSTD_createDCtx());
  if (!decompressor_) return DecodeResult::kNoMemory;
  size_t read = 0;
  size_t made = 0;
  while (made < out.size()) {
    const Bytes rest = in.subspan(read, in.size() - read);
    // After a whole frame, anything else is the padding of the last sector.
    if (!startsFrame(rest)) return read == 0 ? DecodeResult::kDamaged : DecodeResult::kTooShort;
    const size_t frame = ZSTD_findFrameCompressedSize(rest.data(), rest.size());
    if (ZSTD_isError(frame)) return meaning(frame);
    const MutableBytes room = out.subspan(made, out.size() - made);
    const size_t content =
        ZSTD_decompressDCtx(decompressor_.get(), room.data(), room.size(), rest.data(), frame);
    if (ZSTD_isError(content)) return meaning(content);
    read += frame;
    made += content;
  }
  return DecodeResult::kOk;
}

size_t ZstdContext::encode(int level, Bytes in, MutableBytes out) {
  if (!compressor_) compressor_.reset(ZSTD_createCCtx());
  if (!compressor_) return kEncodeFailed;
  if (ZSTD_isError(ZSTD_CCtx_setParameter(compressor_.get(), ZSTD_c_compressionLevel, level))) {
    return kEncodeFailed;
  }
  const size_t length = ZSTD_compress2(compressor_.get(), out.data(), out.size(), in.data(), in.size());
  if (!ZSTD_isError(length)) return length;
  return ZSTD_getErrorCode(length) == ZSTD_error_dstSize_tooSmall ? kDoesNotFit : kEncodeFailed;
}

#else

bool ZstdContext::available() { return false; }
void ZstdContext::FreeCompressor::operator()(ZSTD_CCtx_s*) const {}
void ZstdContext::FreeDecompressor::operator()(ZSTD_DCtx_s*) const {}
DecodeResult ZstdContext::decode(Bytes, MutableBytes) { return DecodeResult::kUnavailable; }
size_t ZstdContext::encode(int, Bytes, MutableBytes) { return kEncodeFailed; }

#endif

}  // namespace qcow2
