// Counting bits, for compilers with and without builtins.
#ifndef QCOW2_CORE_BITS_H_
#define QCOW2_CORE_BITS_H_

#include <cstdint>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

namespace qcow2 {

// The index of the lowest set bit; `value` must not be 0.
inline unsigned lowestBit(uint64_t value) {
#if defined(_MSC_VER)
  unsigned long index;
#if defined(_M_X64) || defined(_M_ARM64)
  _BitScanForward64(&index, value);
#else
  if (_BitScanForward(&index, static_cast<unsigned long>(value))) return index;
  _BitScanForward(&index, static_cast<unsigned long>(value >> 32));
  index += 32;
#endif
  return index;
#else
  return static_cast<unsigned>(__builtin_ctzll(value));
#endif
}

}  // namespace qcow2

#endif  // QCOW2_CORE_BITS_H_
