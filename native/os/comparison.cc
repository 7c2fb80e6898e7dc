// Each thread takes the next unit, reads it from both disks part by part and looks whether the two are the same.
#include "os/comparison.h"

#include <algorithm>
#include <utility>

#include "core/zero.h"

namespace qcow2 {
namespace {

// Both sides of a part stay in the second-level cache of a processor, with room for what they are copied from.
constexpr size_t kMinStep = 64 * 1024;

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
    differs[index] = isSameUnit(units_[index], reader, a, b) ? 0 : 1;
  }
}

bool Comparison::isSameUnit(const ComparedUnit& unit, PieceReader& reader, MutableBytes a, MutableBytes b) {
  const Piece* const pieces = pieces_.data() + unit.first_piece;
  PartCursor in_a(pieces, unit.pieces_a);
  PartCursor in_b(pieces + unit.pieces_a, unit.pieces_b);
  const size_t step = stepOf(unit);
  for (size_t at = 0; at < unit.length; at += step) {
    const size_t end = std::min(unit.length, at + step);
    MutableBytes part_a = a.subspan(0, end - at);
    MutableBytes part_b = b.subspan(0, end - at);
    if (!fill(in_a.part(at, end), reader, part_a) || !fill(in_b.part(at, end), reader, part_b)) return false;
    if (!isSame(part_a, part_b)) return false;
  }
  return true;
}

// No compressed cluster is cut: it would be decoded twice.
size_t Comparison::stepOf(const ComparedUnit& unit) const {
  size_t step = kMinStep;
  const Piece* const pieces = pieces_.data() + unit.first_piece;
  for (size_t i = 0; i < unit.pieces_a + unit.pieces_b; ++i) step = std::max(step, pieces[i].cluster_size);
  return step;
}

// Empties the buffer where the disk has nothing but zeros.
bool Comparison::fill(const std::vector<Piece>& pieces, PieceReader& reader, MutableBytes& buffer) {
  buffer = buffer.subspan(0, pieces.empty() ? 0 : buffer.size());
  if (pieces.empty()) return true;
  // As one block, all of it is filled.
  std::vector<UnitRange> covered;
  const Filled filled = reader.fill(pieces.data(), pieces.size(), buffer, buffer.size(), covered);
  if (!filled.isWhole()) stop(filled);
  return filled.isWhole();
}

void Comparison::stop(const Filled& failure) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (!stopped_) {
    failure_ = failure.result;
    damaged_ = failure.damaged;
  }
  stopped_ = true;
}

}  // namespace qcow2
