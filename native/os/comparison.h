// Compares two disks as planned pieces of files describe them, on several threads that share one plan.
#ifndef QCOW2_OS_COMPARISON_H_
#define QCOW2_OS_COMPARISON_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/codec.h"
#include "core/span.h"
#include "os/pieces.h"
#include "os/result.h"

namespace qcow2 {

// A range of both disks: the pieces of the first disk, then those of the second. What no piece fills is zeros.
struct ComparedUnit {
  size_t length;
  size_t first_piece;
  size_t pieces_a;
  size_t pieces_b;
};

class Comparison {
 public:
  Comparison(std::vector<ComparedUnit> units, std::vector<Piece> pieces);

  // Compares units until none is left, each result into its element of `differs`: 1 where the disks differ, else
  // 0. Call it on any number of threads, each with a context of its own and two buffers for a unit.
  void run(MutableBytes a, MutableBytes b, Span<unsigned char> differs, CodecContext& codec);

  // After every run() has returned: a failed system call, if there was one.
  const OsResult& failure() const { return failure_; }
  // Whether some piece was not there as planned: cut off by the end of its file, or not to be decoded.
  bool isDamaged() const { return damaged_; }

 private:
  // Whether the disks are the same in a unit; stops everything where that cannot be found out.
  bool isSameUnit(const ComparedUnit& unit, PieceReader& reader, MutableBytes a, MutableBytes b);
  // Bytes of a unit that are compared at once.
  size_t stepOf(const ComparedUnit& unit) const;
  bool fill(const std::vector<Piece>& pieces, PieceReader& reader, MutableBytes& buffer);
  void stop(const Filled& failure);

  const std::vector<ComparedUnit> units_;
  std::vector<Piece> pieces_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  OsResult failure_;
  bool damaged_ = false;
};

}  // namespace qcow2

#endif  // QCOW2_OS_COMPARISON_H_
