// One-shot encoding with a state that is made once.
#include "core/codec_isal.h"

#ifndef QCOW2_NO_ISAL
#include <isa-l/igzip_lib.h>

#include <new>
#endif

namespace qcow2 {

#ifndef QCOW2_NO_ISAL

struct IsalEncoder::State {
  isal_zstream stream;
  unsigned char level_buffer[ISAL_DEF_LVL2_DEFAULT];
};

bool IsalEncoder::available() { return true; }

size_t IsalEncoder::encode(Bytes in, MutableBytes out) {
  if (!state_) state_.reset(new (std::nothrow) State);
  if (!state_) return kEncodeFailed;
  isal_zstream& stream = state_->stream;
  isal_deflate_stateless_init(&stream);
  // The one thing that ISA-L reads and its initialisation leaves as it was in memory. 1 to 14 would narrow the
  // window to so many bits: streams up to a third longer, and others in the next run. 0 is the whole window.
  stream.hist_bits = 0;
  // ISA-L reads what it is given, though it does not say const.
  stream.next_in = const_cast<unsigned char*>(in.data());
  stream.avail_in = static_cast<uint32_t>(in.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uint32_t>(out.size());
  stream.level = 2;
  stream.level_buf = state_->level_buffer;
  stream.level_buf_size = sizeof state_->level_buffer;
  stream.end_of_stream = 1;
  stream.flush = NO_FLUSH;
  stream.gzip_flag = IGZIP_DEFLATE;
  const int result = isal_deflate_stateless(&stream);
  if (result == STATELESS_OVERFLOW) return kDoesNotFit;
  return result == COMP_OK ? stream.total_out : kEncodeFailed;
}

#else

struct IsalEncoder::State {};

bool IsalEncoder::available() { return false; }
size_t IsalEncoder::encode(Bytes, MutableBytes) { return kEncodeFailed; }

#endif

IsalEncoder::IsalEncoder() = default;
IsalEncoder::~IsalEncoder() = default;

}  // namespace qcow2
