// Adding up what L2 tables say by equal parts of the disk and of the file, for a picture of the image.
#ifndef QCOW2_CORE_L2_PICTURE_H_
#define QCOW2_CORE_L2_PICTURE_H_

#include "core/l2_entry.h"

namespace qcow2 {

// Numbers per part of the disk: bytes of each RunKind, then the pieces that begin in it (a piece is what lies in
// one stretch in the file).
constexpr size_t kGuestPartStride = 8;
// Numbers per part of the file: bytes of data, of compressed data, and of clusters kept for zeros.
constexpr size_t kHostPartStride = 3;

// Equal parts of the disk and of the file; what lies past the last part counts to the last one.
struct PictureGrid {
  uint64_t guestPart;
  uint64_t hostPart;
  // guestParts x kGuestPartStride, hostParts x kHostPartStride.
  Span<double> guest;
  Span<double> host;
  // Bytes by part of the disk (rows) and part of the file (columns); `side` of each.
  Span<double> links;
  size_t side;
};

// Adds the guest bytes [start, end) that `table` describes; its first entry is for `start`. `expected` is where the
// piece before ends in the file (0: nowhere). Returns where the last one ends.
uint64_t addToPicture(const L2Format& format, Bytes table, uint64_t start, uint64_t end, uint64_t expected,
                      const PictureGrid& grid);

}  // namespace qcow2

#endif  // QCOW2_CORE_L2_PICTURE_H_
