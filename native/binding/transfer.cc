// Planned copies between files for JavaScript.
#include "os/transfer.h"

#include <algorithm>
#include <climits>
#include <memory>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/codec_pool.h"
#include "binding/os_error.h"
#include "binding/plan_arguments.h"
#include "binding/work.h"

namespace qcow2::binding {
namespace {

// Numbers for each element of the tables (transferStride in lib/native/transfer.ts).
constexpr size_t kUnitStride = 3;
constexpr size_t kDifferingUnitStride = 4;
constexpr size_t kPlaceStride = 2;
constexpr size_t kPlacedStride = 3;
constexpr size_t kCompressionNumbers = 4;
constexpr size_t kAreaNumbers = 4;
// Buffers beside one for each worker (spareBuffers in lib/native/transfer.ts).
constexpr size_t kSpareBuffers = 2;

// What the workers of one call share.
struct Shared {
  Shared(TransferPlan plan, const std::vector<Transfer::Buffers>& buffers, std::shared_ptr<CodecPool> codecs)
      : transfer(std::move(plan), buffers), pool(std::move(codecs)) {}
  Transfer transfer;
  const std::shared_ptr<CodecPool> pool;
};

// Resolves with the number of runs placed once all workers are done (the last one knows), or -1 for a plan
// that did not fit the files.
class TransferWork : public Work {
 public:
  struct Memory {
    Span<double> placed;
    Span<double> area;
  };

  TransferWork(std::shared_ptr<Shared> shared, const Memory& memory)
      : shared_(std::move(shared)), memory_(memory) {}

 protected:
  void execute() noexcept override {
    const CodecPool::Lease codec(*shared_->pool);
    shared_->transfer.run(*codec);
  }

  napi_value settle(napi_env env, bool* failed) noexcept override {
    // The others have a reference as long as they run.
    if (shared_.use_count() > 1) return number(env, 0);
    const Transfer& transfer = shared_->transfer;
    *failed = transfer.failure().kind == OsResult::Kind::kFailed;
    if (*failed) return systemError(env, transfer.failure());
    if (transfer.isDamaged() || transfer.failure().kind != OsResult::Kind::kDone) return number(env, -1);
    const Span<double>& placed = memory_.placed;
    size_t at = 0;
    for (const Placed& run : transfer.placed()) {
      if (placed.size() - at < kPlacedStride) break;
      placed[at++] = static_cast<double>(run.guest);
      placed[at++] = static_cast<double>(run.length);
      placed[at++] = static_cast<double>(run.host);
    }
    if (memory_.area.size() == kAreaNumbers) writeArea(transfer.area(), memory_.area);
    return number(env, static_cast<double>(at / kPlacedStride));
  }

 private:
  static void writeArea(const PackingArea& area, Span<double> out) {
    out[0] = static_cast<double>(area.next);
    out[1] = static_cast<double>(area.end);
    out[2] = static_cast<double>(area.shares);
    out[3] = static_cast<double>(area.blocks);
  }

  std::shared_ptr<Shared> shared_;
  const Memory memory_;
};

size_t blocksOf(const TransferPlan& plan, const TransferUnit& unit) {
  return (unit.length - 1) / plan.granularity + 1;
}

void takeUnits(Arguments& args, Span<double> units, PieceTable& table, size_t capacity, TransferPlan& plan) {
  const bool differs = plan.content == Content::kDiffering;
  const size_t stride = differs ? kDifferingUnitStride : kUnitStride;
  const size_t count = rows(args, "units", units, stride);
  for (size_t i = 0; i < count && !args.failed(); ++i) {
    Row row(args, "units", units, i * stride);
    const int64_t guest = row.next(0, kMaxSafeInteger - kMaxBlock);
    const int64_t length = row.next(1, static_cast<int64_t>(capacity));
    if (args.failed()) return;
    const size_t first = table.pieces().size();
    const size_t own = table.take(row, length);
    const size_t others = differs && !args.failed() ? table.take(row, length) : 0;
    plan.units.push_back({guest, static_cast<size_t>(length), first, own, others});
  }
  plan.pieces = std::move(table.pieces());
}

// The blocks of a unit that pieces may fill, at most.
size_t filledBlocks(const TransferPlan& plan, const TransferUnit& unit) {
  size_t blocks = 0;
  for (size_t i = unit.first_piece; i < unit.first_piece + unit.pieces; ++i) {
    const Piece& piece = plan.pieces[i];
    blocks += (piece.offset + piece.length - 1) / plan.granularity - piece.offset / plan.granularity + 1;
  }
  return std::min(blocks, blocksOf(plan, unit));
}

// Places must hold everything, should nothing of it be zeros, the same elsewhere or get shorter, and what streams have ahead.
void takePlaces(Arguments& args, Span<double> table, TransferPlan& plan) {
  const auto block = static_cast<int64_t>(plan.granularity);
  const size_t count = rows(args, "places", table, kPlaceStride);
  if (count > 0 && plan.placing == Placing::kSame) plan.placing = Placing::kPacked;
  if (plan.placing == Placing::kSame) return;
  int64_t room = 0;
  for (size_t i = 0; i < count && !args.failed(); ++i) {
    Row row(args, "places", table, i * kPlaceStride);
    const int64_t position = row.next(0, kMaxSafeInteger / 2);
    const int64_t length = row.next(block, kMaxSafeInteger / 2);
    args.requireValue(length % block == 0 && (position % block == 0 || plan.placing == Placing::kPacked), "places",
                      "must be whole blocks");
    plan.places.push_back({position, length});
    room = std::min(room + length, kMaxSafeInteger);
  }
  for (const TransferUnit& unit : plan.units) {
    const bool differs = plan.content == Content::kDiffering;
    room -= static_cast<int64_t>(differs ? filledBlocks(plan, unit) : blocksOf(plan, unit)) * block;
  }
  if (plan.placing == Placing::kCompressed) room -= Places::kMostAhead * block;
  args.requireValue(room >= 0, "places", "must have room for all units");
}

// Codec, level, streams per block, blocks ahead; and the area, which is changed when all is done.
void takeCompression(Arguments& args, Span<double> numbers, Span<double> area, TransferPlan& plan) {
  if (args.failed() || numbers.size() == 0) return;
  args.requireValue(numbers.size() == kCompressionNumbers, "compression", "must hold four numbers, or none");
  args.requireValue(area.size() == kAreaNumbers, "area", "must hold four numbers");
  args.requireRange(plan.granularity > 1, "granularity", "more than 1 for compression");
  args.requireValue(plan.content != Content::kDiffering, "content", "must not be what differs, for compression");
  if (args.failed()) return;
  plan.placing = Placing::kCompressed;
  Row row(args, "compression", numbers, 0);
  plan.codec = static_cast<Codec>(row.next(0, 1));
  args.requireValue(hasCodec(plan.codec), "compression", "needs a codec that was left out of the addon");
  plan.level = static_cast<int>(row.next(1, highestLevel(plan.codec)));
  plan.limits.shares = row.next(1, kMaxSafeInteger);
  plan.limits.ahead = row.next(1, Places::kMostAhead);
  const auto block = static_cast<int64_t>(plan.granularity);
  Row place(args, "area", area, 0);
  plan.area.next = place.next(0, kMaxSafeInteger / 2);
  plan.area.end = place.next(plan.area.next, kMaxSafeInteger / 2);
  plan.area.shares = place.next(0, kMaxSafeInteger);
  plan.area.blocks = place.next(0, kMaxSafeInteger);
  args.requireValue(plan.area.end % block == 0, "area", "must end with a block");
}

napi_value transferPieces(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(6, "scratch");
  args.requireFixedLength(7, "placed");
  args.requireFixedLength(10, "area");
  args.requireFixedLength(12, "memory");
  TransferPlan plan = {};
  plan.out = static_cast<int>(args.integer(0, "fdOut", 0, INT_MAX));
  plan.granularity = static_cast<size_t>(args.integer(5, "granularity", 1, kMaxBlock));
  const auto workers = static_cast<size_t>(args.integer(8, "workers", 1, kMaxWorkers));
  plan.content = static_cast<Content>(args.integer(11, "content", 0, static_cast<int64_t>(Content::kDiffering)));
  plan.reserves_ahead = args.boolean(13, "reservesAhead");
  if (args.failed()) return nullptr;
  const Span<double> files = args.doubles(1, "files");
  const Span<double> units = args.doubles(2, "units");
  const Span<double> pieces = args.doubles(3, "pieces");
  const Span<double> places = args.doubles(4, "places");
  const MutableBytes scratch = args.bytes(6, "scratch");
  const Span<double> placed = args.doubles(7, "placed");
  const Span<double> compression = args.doubles(9, "compression");
  const Span<double> area = args.doubles(10, "area");
  const Bytes memory = args.bytes(12, "memory");
  takeCompression(args, compression, area, plan);
  if (args.failed()) return nullptr;
  const bool differs = plan.content == Content::kDiffering;
  if (differs) plan.placing = Placing::kPacked;
  const bool needs_more = differs || plan.placing == Placing::kCompressed;
  const size_t desks = workers + kSpareBuffers;
  const size_t capacity = partOf(args, scratch, desks * (needs_more ? 2 : 1), plan.granularity);
  PieceTable table(args, files, pieces, memory);
  if (args.failed()) return nullptr;
  takeUnits(args, units, table, capacity, plan);
  if (args.failed()) return nullptr;
  takePlaces(args, places, plan);
  size_t blocks = 0;
  for (const TransferUnit& unit : plan.units) blocks += blocksOf(plan, unit);
  args.requireRange(
      plan.placing == Placing::kSame || placed.size() / kPlacedStride >= blocks + plan.places.size(),
      "placed.length", "enough for a run for each block and place");
  if (args.failed()) return nullptr;

  std::vector<Transfer::Buffers> buffers;
  for (size_t i = 0; i < desks; ++i) {
    buffers.push_back({scratch.subspan(i * capacity, capacity),
                       needs_more ? scratch.subspan((desks + i) * capacity, capacity) : MutableBytes()});
  }
  auto shared = std::make_shared<Shared>(std::move(plan), buffers, codecPoolOf(env));
  napi_value promises;
  if (napi_create_array_with_length(env, workers, &promises) != napi_ok) return nullptr;
  for (size_t i = 0; i < workers; ++i) {
    const napi_value promise =
        Work::start(env, std::make_unique<TransferWork>(shared, TransferWork::Memory{placed, area}),
                    "qcow2.transfer", {args.value(6), args.value(7), args.value(10), args.value(12)});
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
