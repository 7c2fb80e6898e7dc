// Each thread takes the next unit, reads it from both disks and looks whether the two are the same.
#include "os/comparison.h"

#include <cstring>
#include <utility>

#include "core/zero.h"

namespace qcow2 {
namespace {

// An empty view stands for zeros.
bool isSame(Bytes a, Bytes b) {
  if (a.size() == 0) return isZero(b);
  if (b.size() == 0) return isZero(a);
  return std::memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

Comparison::Comparison(std::vector<ComparedUnit> units, std::vector<Piece> pieces)
    : units_(std::move(units)), pieces_(std::move(pieces)) {
  for (const ComparedUnit& unit : units_) {
    sortPieces(pieces_, unit.first_piece, unit.pieces_a);
    sortPieces(pieces_, unit.first_piece + unit.pieces_a, unit.pieces_b);
  }
}

void Comparison::run(MutableBytes a, MutableBytes b, Span<unsigned char> differs, CodecContext& codec) {
  PieceReader reader(codec);
  for (size_t index = next_++; index < units_.size() && !stopped_; index = next_++) {
    const ComparedUnit& unit = units_[index];
    MutableBytes in_a = a;
    MutableBytes in_b = b;
    if (!fill(unit, unit.first_piece, unit.pieces_a, reader, in_a)) return;
    if (!fill(unit, unit.first_piece + unit.pieces_a, unit.pieces_b, reader, in_b)) return;
    differs[index] = isSame(in_a, in_b) ? 0 : 1;
  }
}

bool Comparison::fill(const ComparedUnit& unit, size_t first, size_t count, PieceReader& reader,
                      MutableBytes& buffer) {
  buffer = buffer.subspan(0, count == 0 ? 0 : unit.length);
  if (count == 0) return true;
  // As one block, all of it is filled.
  std::vector<UnitRange> covered;
  const Filled filled = reader.fill(pieces_.data() + first, count, buffer, unit.length, covered);
  if (filled.isWhole()) return true;
  const std::lock_guard<std::mutex> guard(mutex_);
  if (!stopped_) {
    failure_ = filled.result;
    damaged_ = filled.damaged;
  }
  stopped_ = true;
  return false;
}

}  // namespace qcow2
