// Comparing planned pieces of files for JavaScript.
#include "os/comparison.h"

#include <memory>
#include <utility>
#include <vector>

#include "binding/bindings.h"
#include "binding/codec_pool.h"
#include "binding/os_error.h"
#include "binding/plan_arguments.h"
#include "binding/work.h"

namespace qcow2::binding {
namespace {

// Length, pieces of the first disk, pieces of the second (comparisonStride in lib/native/comparison.ts).
constexpr size_t kUnitStride = 3;

// What the workers of one call share.
struct Shared {
  Shared(std::vector<ComparedUnit> units, std::vector<Piece> pieces, std::shared_ptr<CodecPool> codecs)
      : comparison(std::move(units), std::move(pieces)), pool(std::move(codecs)) {}
  Comparison comparison;
  const std::shared_ptr<CodecPool> pool;
};

// Resolves with 0, or with -1 for a plan that did not fit the files, once all workers are done (the last one
// knows).
class CompareWork : public Work {
 public:
  CompareWork(std::shared_ptr<Shared> shared, MutableBytes a, MutableBytes b, MutableBytes differs)
      : shared_(std::move(shared)), a_(a), b_(b), differs_(differs) {}

 protected:
  void execute() noexcept override {
    const CodecPool::Lease codec(*shared_->pool);
    shared_->comparison.run(a_, b_, differs_, *codec);
  }

  napi_value settle(napi_env env, bool* failed) noexcept override {
    // The others have a reference as long as they run.
    if (shared_.use_count() > 1) return number(env, 0);
    const Comparison& comparison = shared_->comparison;
    *failed = comparison.failure().kind == OsResult::Kind::kFailed;
    if (*failed) return systemError(env, comparison.failure());
    const bool unfit = comparison.isDamaged() || comparison.failure().kind != OsResult::Kind::kDone;
    return number(env, unfit ? -1 : 0);
  }

 private:
  std::shared_ptr<Shared> shared_;
  const MutableBytes a_;
  const MutableBytes b_;
  const MutableBytes differs_;
};

std::vector<ComparedUnit> takeUnits(Arguments& args, Span<double> units, PieceTable& table, size_t capacity) {
  std::vector<ComparedUnit> taken;
  const size_t count = rows(args, "units", units, kUnitStride);
  for (size_t i = 0; i < count && !args.failed(); ++i) {
    Row row(args, "units", units, i * kUnitStride);
    const int64_t length = row.next(1, static_cast<int64_t>(capacity));
    if (args.failed()) break;
    const size_t first = table.pieces().size();
    const size_t in_a = table.take(row, length);
    const size_t in_b = args.failed() ? 0 : table.take(row, length);
    taken.push_back({static_cast<size_t>(length), first, in_a, in_b});
  }
  return taken;
}

napi_value comparePieces(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(3, "scratch");
  args.requireFixedLength(4, "differs");
  const auto workers = static_cast<size_t>(args.integer(5, "workers", 1, kMaxWorkers));
  if (args.failed()) return nullptr;
  const Span<double> files = args.doubles(0, "files");
  const Span<double> rows_of_units = args.doubles(1, "units");
  const Span<double> pieces = args.doubles(2, "pieces");
  const MutableBytes scratch = args.bytes(3, "scratch");
  const MutableBytes differs = args.bytes(4, "differs");
  if (args.failed()) return nullptr;
  const size_t capacity = partOf(args, scratch, workers * 2, 1);
  PieceTable table(args, files, pieces);
  if (args.failed()) return nullptr;
  std::vector<ComparedUnit> units = takeUnits(args, rows_of_units, table, capacity);
  args.requireRange(differs.size() >= units.size(), "differs.length", "at least the number of units");
  if (args.failed()) return nullptr;

  auto shared = std::make_shared<Shared>(std::move(units), std::move(table.pieces()), codecPoolOf(env));
  napi_value promises;
  if (napi_create_array_with_length(env, workers, &promises) != napi_ok) return nullptr;
  for (size_t i = 0; i < workers; ++i) {
    const MutableBytes a = scratch.subspan(2 * i * capacity, capacity);
    const MutableBytes b = scratch.subspan((2 * i + 1) * capacity, capacity);
    const napi_value promise = Work::start(env, std::make_unique<CompareWork>(shared, a, b, differs),
                                           "qcow2.comparePieces", {args.value(3), args.value(4)});
    if (promise == nullptr) return nullptr;
    if (napi_set_element(env, promises, static_cast<uint32_t>(i), promise) != napi_ok) return nullptr;
  }
  return promises;
}

}  // namespace

bool initComparison(napi_env env, napi_value exports) {
  return exportFunctions(env, exports, {{"comparePieces", comparePieces}});
}

}  // namespace qcow2::binding
