// Sets of numbers as bits: number i is bit i % 8, from the lowest, of byte i / 8. The bitmaps of the format
// have the same order.
#ifndef QCOW2_CORE_BIT_SET_H_
#define QCOW2_CORE_BIT_SET_H_

#include <cstdint>

#include "core/span.h"

namespace qcow2 {

enum class BitOperation { kUnite, kIntersect, kSubtract };

// Ranges [first, end) lie inside the bits.
void setBits(MutableBytes bits, uint64_t first, uint64_t end, bool value);
uint64_t countBits(Bytes bits, uint64_t first, uint64_t end);
// The first bit in the range that has the value; `end` when none has.
uint64_t nextBit(Bytes bits, uint64_t first, uint64_t end, bool value);
// Combines two sets of one length into `target`.
void combineBits(MutableBytes target, Bytes source, BitOperation operation);

}  // namespace qcow2

#endif  // QCOW2_CORE_BIT_SET_H_
