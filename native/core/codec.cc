// Picks the codec.
#include "core/codec.h"

namespace qcow2 {

bool hasCodec(Codec codec) {
  return codec == Codec::kDeflate ? DeflateContext::available() : ZstdContext::available();
}

int highestLevel(Codec codec) {
  return codec == Codec::kDeflate ? DeflateContext::kHighestLevel : ZstdContext::kHighestLevel;
}

DecodeResult CodecContext::decode(Codec codec, Bytes in, MutableBytes out) {
  return codec == Codec::kDeflate ? deflate_.decode(in, out) : zstd_.decode(in, out);
}

size_t CodecContext::encode(Codec codec, int level, Bytes in, MutableBytes out) {
  return codec == Codec::kDeflate ? deflate_.encode(level, in, out) : zstd_.encode(level, in, out);
}

}  // namespace qcow2
