// One-shot encoding with a state that is made once, and the same stream wherever the state lies.
#include "core/codec_isal.h"

#ifndef QCOW2_NO_ISAL
#include <isa-l/igzip_lib.h>

#include <cstring>
#include <new>
#endif

namespace qcow2 {

#ifndef QCOW2_NO_ISAL

namespace {

// ISA-L 2.30 computes the hash of the third position of a stream not from the input, but from bits 16 to 47 of the
// address of its isal_zstream: a register is not set (tmp2, in the first byte's part of igzip_icf_body_h1_gr_bt.asm).
// The position goes to a slot of the hash table that has nothing to do with it, which does no harm by itself. But
// where that is the slot of one of the first three positions, a match is found or missed, and the stream is another
// one than with the state at another address. So there are several places for the isal_zstream, and one is taken
// whose slot is none of these. That is right, though needless, where ISA-L does not have the error.
constexpr size_t kPlaces = 8;
constexpr size_t kPlaceStride = size_t{1} << 16;
constexpr size_t kFirstPositions = 3;
// Slots that differ in these bits differ in a table of any size: ISA-L's have 1024 slots or more for a cluster.
constexpr uint32_t kSlotMask = 0x3ff;

// What the processor's instruction crc32 makes of four bytes and 0: ISA-L's hash.
uint32_t slotOf(uint32_t bytes) {
  for (int bit = 0; bit < 32; ++bit) bytes = (bytes >> 1) ^ (0x82f63b78 & (0 - (bytes & 1)));
  return bytes & kSlotMask;
}

uint32_t slotOfAddress(const void* address) {
  return slotOf(static_cast<uint32_t>(static_cast<uint64_t>(reinterpret_cast<uintptr_t>(address)) >> 16));
}

}  // namespace

struct IsalEncoder::State {
  // The places overlap; only the one in use holds an isal_zstream.
  alignas(isal_zstream) unsigned char places[(kPlaces - 1) * kPlaceStride + sizeof(isal_zstream)];
  unsigned char level_buffer[ISAL_DEF_LVL2_DEFAULT];

  // The first place whose slot is that of none of the first positions.
  void* placeFor(Bytes in) {
    uint32_t taken[kFirstPositions] = {};
    for (size_t at = 0; at < kFirstPositions && at + sizeof(uint32_t) <= in.size(); ++at) {
      uint32_t bytes = 0;
      std::memcpy(&bytes, in.data() + at, sizeof bytes);
      taken[at] = slotOf(bytes);
    }
    size_t place = 0;
    for (; place < kPlaces - 1; ++place) {
      const uint32_t slot = slotOfAddress(places + place * kPlaceStride);
      if (slot != taken[0] && slot != taken[1] && slot != taken[2]) break;
    }
    return places + place * kPlaceStride;
  }
};

bool IsalEncoder::available() { return true; }

size_t IsalEncoder::encode(Bytes in, MutableBytes out) {
  if (!state_) state_.reset(new (std::nothrow) State);
  if (!state_) return kEncodeFailed;
  isal_zstream& stream = *new (state_->placeFor(in)) isal_zstream;
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
