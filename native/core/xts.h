// What turns bulk AES-ECB into AES-XTS and AES-CBC: tweak masks, initialisation vectors, and fast xor.
#ifndef QCOW2_CORE_XTS_H_
#define QCOW2_CORE_XTS_H_

#include <cstddef>
#include <cstdint>

#include "core/span.h"

namespace qcow2 {

constexpr size_t kAesBlock = 16;

// Expands the encrypted tweak of each sector (16 bytes) into one mask per AES block: the tweak times alpha^0,
// alpha^1, ... in GF(2^128) as IEEE 1619 has it. `out` is sector_size bytes per tweak, sector_size a multiple
// of 16.
void xtsMasks(Bytes tweaks, size_t sector_size, MutableBytes out);

// target ^= mask; both have the same size.
void xorInto(MutableBytes target, Bytes mask);

// Finishes CBC decryption: `blocks` is the ciphertext after AES-ECB decryption and becomes the plaintext.
// Each sector of sector_size bytes (a multiple of 16) starts its chain with its own 16 bytes of `ivs`.
void cbcDecryptFinish(MutableBytes blocks, Bytes ciphertext, Bytes ivs, size_t sector_size);

// Writes the plain64 vectors of consecutive sectors, 16 bytes each: the number, little-endian, then zeros.
void plain64(uint64_t first_sector, MutableBytes out);

}  // namespace qcow2

#endif  // QCOW2_CORE_XTS_H_
