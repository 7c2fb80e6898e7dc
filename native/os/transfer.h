// Copies planned pieces of files into another file, without their zeros: what a conversion does for every
// byte, done by several threads that share one plan.
#ifndef QCOW2_OS_TRANSFER_H_
#define QCOW2_OS_TRANSFER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "core/codec.h"
#include "core/span.h"
#include "os/result.h"

namespace qcow2 {

// Where some of the bytes of a unit come from.
struct TransferPiece {
  int fd;
  int64_t position;
  // Bytes in the file: as many as in the unit, unless they are compressed.
  size_t stored;
  // Which bytes of the unit they become.
  size_t offset;
  size_t length;
  // 0: plain bytes. Else the file holds a compressed cluster of this size, of which `length` bytes from
  // `skip` on are wanted.
  size_t cluster_size;
  size_t skip;
  Codec codec;
};

// A range of the disk that is read, looked through and written at once. What no piece fills is zeros.
struct TransferUnit {
  int64_t guest;
  size_t length;
  size_t first_piece;
  size_t pieces;
};

struct HostRange {
  int64_t position;
  int64_t length;
};

// Bytes [guest, guest + length) of the disk went to `host`.
struct Placed {
  int64_t guest;
  int64_t length;
  int64_t host;
};

struct TransferPlan {
  int out;
  // Zeros are left out in blocks of this size, counted from the beginning of each unit.
  size_t granularity;
  std::vector<TransferUnit> units;
  std::vector<TransferPiece> pieces;
  // Packed: where data goes, taken in the order of the units, by whole blocks. Else everything goes where it
  // is on the disk.
  bool packed;
  std::vector<HostRange> places;
};

class Transfer {
 public:
  explicit Transfer(TransferPlan plan);

  // Does units until none is left. Call it on any number of threads, each with a buffer for a unit of whole
  // blocks and a context of its own. A call waits for no other but those that are running already.
  void run(MutableBytes buffer, CodecContext& codec);

  // After every run() has returned: a failed system call, if there was one.
  const OsResult& failure() const { return failure_; }
  // Whether some piece was not there as planned: cut off by the end of its file, or not to be decoded.
  bool isDamaged() const { return damaged_; }
  // Where data was put, in the order of the disk, neighbours joined. Only of packed plans.
  const std::vector<Placed>& placed() const { return placed_; }

 private:
  bool fill(const TransferUnit& unit, MutableBytes buffer, CodecContext& codec,
            std::vector<unsigned char>& spare);
  bool decode(const TransferPiece& piece, MutableBytes out, CodecContext& codec,
              std::vector<unsigned char>& spare);
  // Adds where the data of a unit goes to `targets`; in the order of the units.
  bool place(size_t index, const std::vector<double>& ends, size_t runs, std::vector<Placed>& targets);
  void placePacked(int64_t guest, int64_t length, std::vector<Placed>& targets);
  bool store(const TransferUnit& unit, MutableBytes buffer, const std::vector<Placed>& targets);
  void fail(const OsResult& failure);
  void failDamaged();

  const TransferPlan plan_;
  const bool reserves_;
  std::mutex mutex_;
  std::condition_variable turn_changed_;
  // All below are guarded by the mutex while threads run.
  size_t next_ = 0;
  size_t turn_ = 0;
  size_t place_ = 0;
  int64_t place_used_ = 0;
  std::vector<Placed> placed_;
  OsResult failure_;
  bool stopped_ = false;
  bool damaged_ = false;
};

}  // namespace qcow2

#endif  // QCOW2_OS_TRANSFER_H_
