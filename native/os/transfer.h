// Copies planned pieces of files into another file, without their zeros, with them, or only where another disk differs:
// what a conversion, a commit or a rebase does for every byte, done by several threads that share one plan.
#ifndef QCOW2_OS_TRANSFER_H_
#define QCOW2_OS_TRANSFER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/codec.h"
#include "core/places.h"
#include "core/span.h"
#include "os/pieces.h"
#include "os/result.h"

namespace qcow2 {

// A range of the disk that is read, looked through and written at once. What no piece fills is zeros.
struct TransferUnit {
  int64_t guest;
  size_t length;
  size_t first_piece;
  size_t pieces;
  // Of Content::kDiffering, behind the others: what the other disk has in the same range.
  size_t other_pieces;
};

// Host offset of what is zeros where another disk has something else.
constexpr int64_t kHidden = -1;

// Bytes [guest, guest + length) of the disk went to `host`; shorter than a block: a block, compressed to that.
struct Placed {
  int64_t guest;
  int64_t length;
  int64_t host;
};

// How data gets its place.
enum class Placing : uint8_t {
  // Where it is on the disk.
  kSame,
  // In the order of the units, by whole blocks.
  kPacked,
  // The same with each block compressed by itself, where it gets shorter.
  kCompressed,
};

// Which blocks are copied.
enum class Content : uint8_t {
  // Of which something was read.
  kRead,
  // The same without zeros.
  kData,
  // Those that are other than on another disk; zeros among them are told of only, as kHidden.
  kDiffering,
};

struct TransferPlan {
  int out;
  // Blocks of this size are counted from the beginning of each unit.
  size_t granularity;
  Content content;
  std::vector<TransferUnit> units;
  std::vector<Piece> pieces;
  Placing placing;
  // Of kPacked and kCompressed: where data may go, room for everything.
  std::vector<HostRange> places;
  // Of kPacked: whether space may be reserved for more than is written in the end.
  bool reserves_ahead;
  // Of kCompressed.
  Codec codec;
  int level;
  PackingArea area;
  PackingLimits limits;
};

class Transfer {
 public:
  // What a unit is read into, whole blocks, and as long as that, what its streams are put into for kCompressed, or the other
  // disk is read into for kDiffering.
  struct Buffers {
    MutableBytes data;
    MutableBytes more;
  };

  // With `buffers`, at least one: with more of them than threads none waits while others write.
  Transfer(TransferPlan plan, const std::vector<Buffers>& buffers);

  // Does units until none is left. Call it on any number of threads, each with a context of its own. A call waits
  // for no other but those that are running already.
  void run(CodecContext& codec);

  // After every run() has returned: a failed system call, if there was one.
  const OsResult& failure() const { return failure_; }
  // Whether some piece was not there as planned: cut off by the end of its file, or not to be decoded.
  bool isDamaged() const { return damaged_; }
  // Where data was put, in the order of the disk, neighbours joined. Not of kSame.
  const std::vector<Placed>& placed() const { return placed_; }
  const PackingArea& area() const { return places_.area(); }

 private:
  // Bytes in memory and where they go.
  struct Write {
    Bytes bytes;
    int64_t host;
  };
  // Blocks that are to be written, or are zeros to be told of.
  struct Run {
    UnitRange range;
    bool hidden;
  };
  // Where a unit is prepared, and lies until it is written.
  struct Desk {
    Buffers buffers;
    size_t unit;
    // What was read, also of the other disk, and what of that is to be written: all begin with a block.
    std::vector<UnitRange> covered;
    std::vector<UnitRange> covered_there;
    std::vector<Run> runs;
    // For each block of data its length as a stream, 0 where it gets no shorter.
    std::vector<size_t> lengths;
    std::vector<Write> writes;
  };

  // These are called with the mutex locked: the desk of a unit that may be written now and one for the next unit,
  // null when there is none.
  Desk* takePrepared();
  Desk* takeIdle();
  void stop(const Filled& failure);

  Filled prepare(Desk& desk, PieceReader& reader, CodecContext& codec) const;
  void findRuns(const TransferUnit& unit, Desk& desk) const;
  Filled findDiffering(const TransferUnit& unit, Desk& desk, PieceReader& reader) const;
  Filled encode(CodecContext& codec, Desk& desk) const;
  // These are called by one thread at a time: the one that writes.
  Filled store(const Desk& desk);
  void reserve(const Write& write);
  int64_t placesFrom(int64_t position);

  // Plans the writes of a unit, with the mutex locked; in the order of the units, unless everything has its place.
  bool place(Desk& desk);
  bool placeRuns(const TransferUnit& unit, Desk& desk);
  bool placeRun(int64_t guest, MutableBytes run, Desk& desk, size_t& block, size_t& used);
  bool placeBlocks(int64_t guest, MutableBytes run, Desk& desk);
  void note(const Placed& placed);

  const TransferPlan plan_;
  const bool reserves_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Of the thread that writes: what was reserved last, and the place that is in.
  HostRange reserved_ = {0, 0};
  size_t place_ = 0;
  // All below are guarded by the mutex while threads run.
  std::vector<Desk> desks_;
  std::vector<Desk*> idle_;
  std::vector<Desk*> prepared_;
  bool writing_ = false;
  size_t next_ = 0;
  // Units placed, unless everything has its place.
  size_t turn_ = 0;
  Places places_;
  std::vector<Placed> placed_;
  OsResult failure_;
  bool stopped_ = false;
  bool damaged_ = false;
};

}  // namespace qcow2

#endif  // QCOW2_OS_TRANSFER_H_
