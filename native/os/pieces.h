// Planned pieces of files, or of what has come of a stream, and reading those of a unit into memory.
#ifndef QCOW2_OS_PIECES_H_
#define QCOW2_OS_PIECES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/codec.h"
#include "core/span.h"
#include "os/result.h"

namespace qcow2 {

// Where some of the bytes of a unit come from.
struct Piece {
  int fd;
  // In place of a file, what has come of a stream; else null.
  const unsigned char* memory;
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

// How reading a unit ended: done, a failed system call, or `damaged`: some piece was not there as planned, cut
// off by the end of its file or not to be decoded.
struct Filled {
  OsResult result;
  bool damaged;
  bool isWhole() const { return !damaged && result.kind == OsResult::Kind::kDone; }
};

// Bytes [start, end) of a unit.
struct UnitRange {
  size_t start;
  size_t end;
};

// Reads units, one after the other; each thread has one of its own.
class PieceReader {
 public:
  explicit PieceReader(CodecContext& codec) : codec_(codec) {}

  // Fills `buffer`, whole blocks, with what the pieces bring, which are in the order of their offsets, and with zeros
  // in what they leave of a block. Blocks of which they bring nothing are left as they are: `covered` gets all others.
  Filled fill(const Piece* pieces, size_t count, MutableBytes buffer, size_t block, std::vector<UnitRange>& covered);

 private:
  Filled read(const Piece& piece, MutableBytes out);
  Filled decode(const Piece& piece, MutableBytes out);

  CodecContext& codec_;
  std::vector<unsigned char> spare_;
};

// Pieces in the order of their offsets, cut into parts of a unit one after the other.
class PartCursor {
 public:
  PartCursor(const Piece* pieces, size_t count) : next_(pieces), end_(pieces + count) {}

  // What the pieces have in bytes [start, end) of the unit, their offsets relative to `start`; until the next call.
  const std::vector<Piece>& part(size_t start, size_t end);

 private:
  const Piece* next_;
  const Piece* const end_;
  std::vector<Piece> part_;
};

// Brings `count` pieces from `first` on into the order of their offsets.
void sortPieces(std::vector<Piece>& pieces, size_t first, size_t count);

// Writes all of `buffer`.
OsResult writeFully(int fd, Bytes buffer, int64_t position);

}  // namespace qcow2

#endif  // QCOW2_OS_PIECES_H_
