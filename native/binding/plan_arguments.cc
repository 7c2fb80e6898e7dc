// Every number is looked at before any thread sees it.
#include "binding/plan_arguments.h"

#include <climits>
#include <string>

namespace qcow2::binding {
namespace {

// Numbers for each piece (transferStride in lib/native/transfer.ts).
constexpr size_t kPieceStride = 8;
constexpr int64_t kMaxCluster = int64_t{1} << 21;

}  // namespace

int64_t Row::next(int64_t min, int64_t max) {
  const double value = table_[at_];
  // NaN fails every comparison.
  const bool inside = value >= static_cast<double>(min) && value <= static_cast<double>(max) &&
                      static_cast<double>(static_cast<int64_t>(value)) == value;
  if (!inside) {
    args_.requireRange(false, (std::string(name_) + "[" + std::to_string(at_) + "]").c_str(),
                       "an integer from " + std::to_string(min) + " to " + std::to_string(max));
  }
  ++at_;
  return inside ? static_cast<int64_t>(value) : min;
}

size_t rows(Arguments& args, const char* name, Span<double> table, size_t stride) {
  args.requireValue(table.size() % stride == 0, name, "must hold whole rows");
  return args.failed() ? 0 : table.size() / stride;
}

PieceTable::PieceTable(Arguments& args, Span<double> files, Span<double> pieces, Bytes memory)
    : args_(args), table_(pieces), count_(rows(args, "pieces", pieces, kPieceStride)), memory_(memory) {
  for (size_t i = 0; i < files.size() && !args.failed(); ++i) {
    files_.push_back(static_cast<int>(Row(args, "files", files, i).next(0, INT_MAX)));
  }
  pieces_.reserve(count_);
}

size_t PieceTable::take(Row& row, int64_t unit_length) {
  const auto count = static_cast<size_t>(row.next(0, static_cast<int64_t>(count_ - pieces_.size())));
  if (args_.failed()) return 0;
  for (size_t i = 0; i < count && !args_.failed(); ++i) pieces_.push_back(takePiece(unit_length));
  return count;
}

Piece PieceTable::takePiece(int64_t unit_length) {
  Piece piece = {};
  const size_t sources = files_.size() + (memory_.size() > 0 ? 1 : 0);
  args_.requireValue(sources > 0, "files", "must hold the files of the pieces");
  if (args_.failed()) return piece;
  Row row(args_, "pieces", table_, pieces_.size() * kPieceStride);
  const auto source = static_cast<size_t>(row.next(0, static_cast<int64_t>(sources - 1)));
  if (source < files_.size()) {
    piece.fd = files_[source];
  } else {
    piece.memory = memory_.data();
  }
  piece.position = row.next(0, kMaxSafeInteger - kMaxBlock);
  piece.stored = static_cast<size_t>(row.next(1, kMaxBlock));
  args_.requireValue(
      piece.memory == nullptr || piece.position + static_cast<int64_t>(piece.stored) <= static_cast<int64_t>(memory_.size()),
      "pieces", "must lie inside the memory");
  const int64_t offset = row.next(0, unit_length - 1);
  piece.offset = static_cast<size_t>(offset);
  piece.length = static_cast<size_t>(row.next(1, unit_length - offset));
  piece.cluster_size = static_cast<size_t>(row.next(0, kMaxCluster));
  piece.skip = static_cast<size_t>(row.next(0, kMaxCluster));
  piece.codec = static_cast<Codec>(row.next(0, 1));
  if (piece.cluster_size == 0) {
    args_.requireValue(piece.stored == piece.length && piece.skip == 0, "pieces",
                       "must be as long in the file as in the unit, unless they are compressed");
  } else {
    args_.requireValue(hasCodec(piece.codec), "pieces", "need a codec that was left out of the addon");
    args_.requireValue(
        piece.skip <= piece.cluster_size && piece.length <= piece.cluster_size - piece.skip, "pieces",
        "must lie inside their cluster");
  }
  return piece;
}

size_t partOf(Arguments& args, MutableBytes scratch, size_t buffers, size_t block) {
  const size_t size = scratch.size() / buffers / block * block;
  args.requireRange(size >= block, "scratch.length", "at least a block for each buffer");
  return size;
}

}  // namespace qcow2::binding
