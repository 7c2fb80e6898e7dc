// Room in a file that is given out piece by piece: by whole blocks, and byte by byte for compressed clusters.
#ifndef QCOW2_CORE_PLACES_H_
#define QCOW2_CORE_PLACES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qcow2 {

struct HostRange {
  int64_t position;
  int64_t length;
};

// The blocks that streams are packed into, and how far. Streams get blocks ahead, the more the longer the file
// is already, so that whole blocks taken between them do not end a block before it is full.
struct PackingArea {
  // Where the next stream may begin, and where the blocks taken for streams end; the same when there are none.
  int64_t next = 0;
  int64_t end = 0;
  // Streams that touch the block of `next`, when that lies inside a block.
  int64_t shares = 0;
  // Blocks taken for streams so far.
  int64_t blocks = 0;
};

struct PackingLimits {
  // Streams that may touch one block.
  int64_t shares = 1;
  // Blocks that streams may have ahead: 1 where nothing follows that would use up more.
  int64_t ahead = 1;
};

class Places {
 public:
  // `ranges` are whole blocks, used from the front.
  Places(std::vector<HostRange> ranges, int64_t block, PackingArea area, PackingLimits limits)
      : ranges_(std::move(ranges)), block_(block), area_(area), limits_(limits) {}

  // Most blocks that streams have ahead.
  static constexpr int64_t kMostAhead = 64;

  // Up to `length` bytes in one piece, whole blocks; a length of 0 when nothing is left.
  HostRange takeBlocks(int64_t length);
  // Where a stream shorter than a block goes; -1 when nothing is left. It may lie across two blocks.
  int64_t takeBytes(int64_t length);

  const PackingArea& area() const { return area_; }

 private:
  bool fits(int64_t length) const;
  bool takeAhead();

  std::vector<HostRange> ranges_;
  // The range that is used now, and how much of it is gone.
  size_t range_ = 0;
  int64_t used_ = 0;
  const int64_t block_;
  PackingArea area_;
  const PackingLimits limits_;
};

}  // namespace qcow2

#endif  // QCOW2_CORE_PLACES_H_
