// Planned copies between files for JavaScript.
#include "os/transfer.h"

#include <algorithm>
#include <climits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/codec_pool.h"
#include "binding/os_error.h"
#include "binding/work.h"

namespace qcow2::binding {
namespace {

// Numbers for each element of the tables (transferStride in lib/native/transfer.ts).
constexpr size_t kUnitStride = 3;
constexpr size_t kPieceStride = 8;
constexpr size_t kPlaceStride = 2;
constexpr size_t kPlacedStride = 3;
constexpr int64_t kMaxBlock = int64_t{1} << 26;
constexpr int64_t kMaxWorkers = 16;

// What the workers of one call share.
struct Shared {
  Shared(TransferPlan plan, std::shared_ptr<CodecPool> codecs)
      : transfer(std::move(plan)), pool(std::move(codecs)) {}
  Transfer transfer;
  const std::shared_ptr<CodecPool> pool;
};

// Resolves with the number of runs placed once all workers are done (the last one knows), or -1 for a plan
// that did not fit the files.
class TransferWork : public Work {
 public:
  TransferWork(std::shared_ptr<Shared> shared, MutableBytes buffer, Span<double> placed)
      : shared_(std::move(shared)), buffer_(buffer), placed_(placed) {}

 protected:
  void execute() noexcept override {
    const CodecPool::Lease codec(*shared_->pool);
    shared_->transfer.run(buffer_, *codec);
  }

  napi_value settle(napi_env env, bool* failed) noexcept override {
    // The others have a reference as long as they run.
    if (shared_.use_count() > 1) return number(env, 0);
    const Transfer& transfer = shared_->transfer;
    *failed = transfer.failure().kind == OsResult::Kind::kFailed;
    if (*failed) return systemError(env, transfer.failure());
    if (transfer.isDamaged() || transfer.failure().kind != OsResult::Kind::kDone) return number(env, -1);
    size_t at = 0;
    for (const Placed& run : transfer.placed()) {
      if (placed_.size() - at < kPlacedStride) break;
      placed_[at++] = static_cast<double>(run.guest);
      placed_[at++] = static_cast<double>(run.length);
      placed_[at++] = static_cast<double>(run.host);
    }
    return number(env, static_cast<double>(at / kPlacedStride));
  }

 private:
  std::shared_ptr<Shared> shared_;
  const MutableBytes buffer_;
  const Span<double> placed_;
};

// Takes numbers out of a table; the first that is no integer in its range fails the call.
class Row {
 public:
  Row(Arguments& args, const char* name, Span<double> table, size_t at)
      : args_(args), name_(name), table_(table), at_(at) {}

  int64_t next(int64_t min, int64_t max) {
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

 private:
  Arguments& args_;
  const char* const name_;
  const Span<double> table_;
  size_t at_;
};

size_t rows(Arguments& args, const char* name, Span<double> table, size_t stride) {
  args.requireValue(table.size() % stride == 0, name, "must hold whole rows");
  return args.failed() ? 0 : table.size() / stride;
}

TransferPiece takePiece(Arguments& args, Span<double> table, size_t index, int64_t unit_length) {
  Row row(args, "pieces", table, index * kPieceStride);
  TransferPiece piece = {};
  piece.fd = static_cast<int>(row.next(0, INT_MAX));
  piece.position = row.next(0, kMaxSafeInteger - kMaxBlock);
  piece.stored = static_cast<size_t>(row.next(1, kMaxBlock));
  const int64_t offset = row.next(0, unit_length - 1);
  piece.offset = static_cast<size_t>(offset);
  piece.length = static_cast<size_t>(row.next(1, unit_length - offset));
  piece.cluster_size = static_cast<size_t>(row.next(0, int64_t{1} << 21));
  piece.skip = static_cast<size_t>(row.next(0, int64_t{1} << 21));
  piece.codec = static_cast<Codec>(row.next(0, 1));
  if (piece.cluster_size == 0) {
    args.requireValue(piece.stored == piece.length && piece.skip == 0, "pieces",
                      "must be as long in the file as in the unit, unless they are compressed");
  } else {
    args.requireValue(hasCodec(piece.codec), "pieces", "need a codec that was left out of the addon");
    args.requireValue(piece.skip <= piece.cluster_size && piece.length <= piece.cluster_size - piece.skip,
                      "pieces", "must lie inside their cluster");
  }
  return piece;
}

void takeUnits(Arguments& args, Span<double> units, Span<double> pieces, size_t capacity,
               TransferPlan& plan) {
  const size_t count = rows(args, "units", units, kUnitStride);
  const size_t all_pieces = rows(args, "pieces", pieces, kPieceStride);
  for (size_t i = 0; i < count && !args.failed(); ++i) {
    Row row(args, "units", units, i * kUnitStride);
    const int64_t guest = row.next(0, kMaxSafeInteger - kMaxBlock);
    const int64_t length = row.next(1, static_cast<int64_t>(capacity));
    const auto number_of_pieces =
        static_cast<size_t>(row.next(0, static_cast<int64_t>(all_pieces - plan.pieces.size())));
    plan.units.push_back({guest, static_cast<size_t>(length), plan.pieces.size(), number_of_pieces});
    for (size_t j = 0; j < number_of_pieces && !args.failed(); ++j) {
      plan.pieces.push_back(takePiece(args, pieces, plan.pieces.size(), length));
    }
  }
}

// Places must hold everything, should nothing of it be zeros.
void takePlaces(Arguments& args, Span<double> table, TransferPlan& plan) {
  const auto granularity = static_cast<int64_t>(plan.granularity);
  const size_t count = rows(args, "places", table, kPlaceStride);
  plan.packed = count > 0;
  if (!plan.packed) return;
  int64_t room = 0;
  for (size_t i = 0; i < count && !args.failed(); ++i) {
    Row row(args, "places", table, i * kPlaceStride);
    const int64_t position = row.next(0, kMaxSafeInteger / 2);
    const int64_t length = row.next(granularity, kMaxSafeInteger / 2);
    args.requireValue(length % granularity == 0, "places", "must be whole blocks");
    plan.places.push_back({position, length});
    room = std::min(room + length, kMaxSafeInteger);
  }
  for (const TransferUnit& unit : plan.units) {
    room -= (static_cast<int64_t>(unit.length) + granularity - 1) / granularity * granularity;
  }
  args.requireValue(room >= 0, "places", "must have room for all units");
}

// Bytes a worker's buffer has: whole blocks.
size_t bufferSize(Arguments& args, MutableBytes scratch, size_t workers, size_t granularity) {
  const size_t size = scratch.size() / workers / granularity * granularity;
  args.requireRange(size >= granularity, "scratch.length", "at least a block for each worker");
  return size;
}

napi_value transferPieces(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(5, "scratch");
  args.requireFixedLength(6, "placed");
  TransferPlan plan = {};
  plan.out = static_cast<int>(args.integer(0, "fdOut", 0, INT_MAX));
  plan.granularity = static_cast<size_t>(args.integer(4, "granularity", 1, kMaxBlock));
  const auto workers = static_cast<size_t>(args.integer(7, "workers", 1, kMaxWorkers));
  if (args.failed()) return nullptr;
  const Span<double> units = args.doubles(1, "units");
  const Span<double> pieces = args.doubles(2, "pieces");
  const Span<double> places = args.doubles(3, "places");
  const MutableBytes scratch = args.bytes(5, "scratch");
  const Span<double> placed = args.doubles(6, "placed");
  if (args.failed()) return nullptr;
  const size_t capacity = bufferSize(args, scratch, workers, plan.granularity);
  if (args.failed()) return nullptr;
  takeUnits(args, units, pieces, capacity, plan);
  if (args.failed()) return nullptr;
  takePlaces(args, places, plan);
  size_t blocks = 0;
  for (const TransferUnit& unit : plan.units) blocks += (unit.length - 1) / plan.granularity + 1;
  args.requireRange(!plan.packed || placed.size() / kPlacedStride >= blocks + plan.places.size(),
                    "placed.length", "enough for a run for each block and place");
  if (args.failed()) return nullptr;

  auto shared = std::make_shared<Shared>(std::move(plan), codecPoolOf(env));
  napi_value promises;
  if (napi_create_array_with_length(env, workers, &promises) != napi_ok) return nullptr;
  for (size_t i = 0; i < workers; ++i) {
    const MutableBytes buffer = scratch.subspan(i * capacity, capacity);
    const napi_value promise = Work::start(env, std::make_unique<TransferWork>(shared, buffer, placed),
                                           "qcow2.transfer", {args.value(5), args.value(6)});
    if (promise == nullptr) return nullptr;
    if (napi_set_element(env, promises, static_cast<uint32_t>(i), promise) != napi_ok) return nullptr;
  }
  return promises;
}

}  // namespace

bool initTransfer(napi_env env, napi_value exports) {
  return exportFunctions(env, exports, {{"transfer", transferPieces}});
}

}  // namespace qcow2::binding
