// Big-endian integers at any address: everything in a QCOW2 file is stored that way.
#ifndef QCOW2_CORE_ENDIAN_H_
#define QCOW2_CORE_ENDIAN_H_

#include <cstdint>
#include <cstring>
#if defined(_MSC_VER)
#include <stdlib.h>
#endif

namespace qcow2 {

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
inline uint16_t swapBig(uint16_t value) { return value; }
inline uint32_t swapBig(uint32_t value) { return value; }
inline uint64_t swapBig(uint64_t value) { return value; }
#elif defined(_MSC_VER)
inline uint16_t swapBig(uint16_t value) { return _byteswap_ushort(value); }
inline uint32_t swapBig(uint32_t value) { return _byteswap_ulong(value); }
inline uint64_t swapBig(uint64_t value) { return _byteswap_uint64(value); }
#else
inline uint16_t swapBig(uint16_t value) { return __builtin_bswap16(value); }
inline uint32_t swapBig(uint32_t value) { return __builtin_bswap32(value); }
inline uint64_t swapBig(uint64_t value) { return __builtin_bswap64(value); }
#endif

// `T` is uint16_t, uint32_t or uint64_t.
template <typename T>
inline T loadBig(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return swapBig(value);
}

template <typename T>
inline void storeBig(unsigned char* at, T value) {
  value = swapBig(value);
  std::memcpy(at, &value, sizeof value);
}

}  // namespace qcow2

#endif  // QCOW2_CORE_ENDIAN_H_
