// The tables of numbers in which JavaScript hands over plans for native jobs.
#ifndef QCOW2_BINDING_PLAN_ARGUMENTS_H_
#define QCOW2_BINDING_PLAN_ARGUMENTS_H_

#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "binding/arguments.h"
#include "os/pieces.h"

namespace qcow2::binding {

constexpr int64_t kMaxBlock = int64_t{1} << 26;
constexpr int64_t kMaxWorkers = 16;

// Takes numbers out of a table; the first that is no integer in its range fails the call.
class Row {
 public:
  Row(Arguments& args, const char* name, Span<double> table, size_t at)
      : args_(args), name_(name), table_(table), at_(at) {}

  int64_t next(int64_t min, int64_t max);

 private:
  Arguments& args_;
  const char* const name_;
  const Span<double> table_;
  size_t at_;
};

// Whole rows of a table; 0 when the call has failed.
size_t rows(Arguments& args, const char* name, Span<double> table, size_t stride);

// The pieces of a plan, unit by unit.
class PieceTable {
 public:
  // `files` are descriptors, which the rows of `pieces` name by their index; the one behind the last is `memory`.
  PieceTable(Arguments& args, Span<double> files, Span<double> pieces, Bytes memory = {});

  // Takes the number of the next pieces from `row`, and then these.
  size_t take(Row& row, int64_t unit_length);
  // What was taken so far.
  std::vector<Piece>& pieces() { return pieces_; }

 private:
  Piece takePiece(int64_t unit_length);

  Arguments& args_;
  const Span<double> table_;
  size_t count_ = 0;
  std::vector<int> files_;
  const Bytes memory_;
  std::vector<Piece> pieces_;
};

// Bytes that each of `buffers` equal parts of `scratch` has: whole blocks, one at least.
size_t partOf(Arguments& args, MutableBytes scratch, size_t buffers, size_t block);

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_PLAN_ARGUMENTS_H_
