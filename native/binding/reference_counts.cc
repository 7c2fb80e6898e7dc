// Class ReferenceCounts for JavaScript.
#include "core/reference_counts.h"

#include <algorithm>
#include <memory>
#include <string>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/l2_format.h"
#include "binding/reference_tables_work.h"
#include "core/refcount.h"
#include "core/reference_blocks.h"
#include "core/reference_tables.h"

namespace qcow2::binding {
namespace {

// Tells objects of this class from others; drawn at random once.
constexpr napi_type_tag kTag = {0x3c1f7be0a4d94e21, 0x9b50d8f2c6a71e4d};

// The clusters of the longest file that entries can address, in the smallest clusters.
constexpr uint64_t kMaxClusters = kHostEnd >> kMinClusterBits;

// Tells the garbage collector how much the counters have grown.
void account(napi_env env, CountsHandle& handle) {
  const auto bytes = static_cast<int64_t>(handle.counts ? handle.counts->bytes() : 0);
  int64_t total;
  napi_adjust_external_memory(env, bytes - handle.reported, &total);
  handle.reported = bytes;
}

void destroy(napi_env env, void* data, void*) {
  const std::unique_ptr<std::shared_ptr<CountsHandle>> handle(
      static_cast<std::shared_ptr<CountsHandle>*>(data));
  int64_t total;
  napi_adjust_external_memory(env, -(*handle)->reported, &total);
}

napi_value construct(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  napi_value target = nullptr;
  napi_get_new_target(env, info, &target);
  if (target == nullptr) {
    napi_throw_type_error(env, "ERR_CONSTRUCT_CALL_REQUIRED", "Class ReferenceCounts needs `new`");
    return nullptr;
  }
  const uint64_t clusters = args.natural(0, "clusters", kMaxClusters);
  const auto bits = static_cast<unsigned>(args.integer(1, "clusterBits", kMinClusterBits, kMaxClusterBits));
  const uint64_t limit = args.natural(2, "limit");
  if (args.failed()) return nullptr;
  auto handle = std::make_shared<CountsHandle>();
  handle->counts = ReferenceCounts::create(clusters, bits, limit);
  if (!handle->counts) return throwLimit(env);
  auto owner = std::make_unique<std::shared_ptr<CountsHandle>>(handle);
  if (napi_type_tag_object(env, args.self(), &kTag) != napi_ok ||
      napi_wrap(env, args.self(), owner.get(), destroy, nullptr, nullptr) != napi_ok) {
    return nullptr;
  }
  owner.release();  // destroy() takes it back.
  account(env, *handle);
  return args.self();
}

// The counts behind `this`; null with an exception pending when it is something else, or at work on the
// thread pool.
std::shared_ptr<CountsHandle> takeSelf(Arguments& args) {
  napi_valuetype type = napi_undefined;
  bool tagged = false;
  void* data = nullptr;
  if (args.failed()) return nullptr;
  napi_typeof(args.env(), args.self(), &type);
  if (type == napi_object) napi_check_object_type_tag(args.env(), args.self(), &kTag, &tagged);
  if (!tagged || napi_unwrap(args.env(), args.self(), &data) != napi_ok) {
    napi_throw_type_error(args.env(), "ERR_INVALID_THIS", "The value of \"this\" must be a ReferenceCounts");
    return nullptr;
  }
  std::shared_ptr<CountsHandle> handle = *static_cast<std::shared_ptr<CountsHandle>*>(data);
  if (handle->busy) {
    napi_throw_error(args.env(), "ERR_INVALID_STATE",
                     "These ReferenceCounts are at work: await the promise of the method that works on them first");
    return nullptr;
  }
  return handle;
}

napi_value extend(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t clusters = args.natural(0, "clusters", kMaxClusters);
  const auto handle = takeSelf(args);
  if (!handle || args.failed()) return nullptr;
  if (!handle->counts->extend(clusters)) return throwLimit(env);
  account(env, *handle);
  return undefined(env);
}

napi_value add(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t host = args.natural(0, "host", kMaxSafeInteger);
  const uint64_t length = args.natural(1, "length", kMaxSafeInteger);
  const uint64_t times = args.natural(2, "times");
  const auto handle = takeSelf(args);
  if (!handle || args.failed()) return nullptr;
  bool pastEnd;
  const Counted counted = addRange(*handle->counts, host, length, times, &pastEnd);
  account(env, *handle);
  if (counted == Counted::limitPassed) return throwLimit(env);
  return boolean(env, !pastEnd);
}

napi_value addTable(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t flags = args.natural(1, "flags", kMaxL2Flags);
  const uint64_t times = args.natural(2, "times");
  const auto handle = takeSelf(args);
  if (!handle) return nullptr;
  const L2Format format = l2FormatFor(args, flags, handle->counts->clusterBits());
  const Bytes table = takeL2Table(args, 0, format);
  const Span<double> problems = args.doubles(3, "problems");
  if (args.failed()) return nullptr;
  L2Summary summary;
  const Counted counted = addL2Table(*handle->counts, format, table, 0, times, summary, problems);
  account(env, *handle);
  if (counted == Counted::limitPassed) return throwLimit(env);
  return summaryObject(env, summary);
}

// Whole tables, and a number for each.
void requireTables(Arguments& args, Bytes tables, Span<const uint32_t> times, const L2Format& format) {
  const uint64_t count = tables.size() >> format.clusterBits;
  args.requireRange(count << format.clusterBits == tables.size(), "tables.length",
                    "a multiple of the cluster size");
  args.requireRange(count == times.size(), "times.length", std::to_string(count) + ", one for each table");
}

napi_value addTables(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t flags = args.natural(1, "flags", kMaxL2Flags);
  args.requireFixedLength(0, "tables");
  args.requireFixedLength(2, "times");
  args.requireFixedLength(3, "problems");
  const auto handle = takeSelf(args);
  if (!handle) return nullptr;
  const L2Format format = l2FormatFor(args, flags, handle->counts->clusterBits());
  const Bytes tables = args.bytes(0, "tables");
  const Span<const uint32_t> times = args.words(2, "times");
  const Span<double> problems = args.doubles(3, "problems");
  requireTables(args, tables, times, format);
  if (args.failed()) return nullptr;
  auto work = std::make_unique<TablesWork>(handle, account, format, tables, times, problems);
  return Work::start(env, std::move(work), "qcow2.addL2Tables",
                     {args.self(), args.value(0), args.value(2), args.value(3)});
}

napi_value get(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t cluster = args.natural(0, "cluster");
  const auto handle = takeSelf(args);
  if (!handle || args.failed()) return nullptr;
  return number(env, safeNumber(handle->counts->get(cluster)));
}

using Search = uint64_t (ReferenceCounts::*)(uint64_t first, uint64_t end) const;

template <Search search>
napi_value next(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t first = args.natural(0, "first");
  const uint64_t end = args.natural(1, "end");
  const auto handle = takeSelf(args);
  args.requireRange(first <= end, "first", "at most end");
  if (!handle || args.failed()) return nullptr;
  return number(env, safeNumber(((*handle->counts).*search)(first, end)));
}

napi_value isShared(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto handle = takeSelf(args);
  if (!handle) return nullptr;
  return boolean(env, handle->counts->isShared());
}

napi_value usedEnd(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto handle = takeSelf(args);
  if (!handle) return nullptr;
  return number(env, safeNumber(handle->counts->usedEnd()));
}

// A refcount block of the image, one cluster, whose first refcount is for cluster `firstCluster`. `handle` is
// null on failure.
struct BlockArguments {
  unsigned order = 0;
  uint64_t firstCluster = 0;
  std::shared_ptr<CountsHandle> handle;
  MutableBytes block;
};

// What every method with a block begins with. Other numbers are to be converted before: that may run code of the
// caller.
BlockArguments takeBlock(Arguments& args) {
  BlockArguments taken;
  taken.order = static_cast<unsigned>(args.natural(1, "order", kMaxRefcountOrder));
  taken.firstCluster = args.natural(2, "firstCluster");
  taken.handle = takeSelf(args);
  if (!taken.handle) return taken;
  taken.block = args.bytes(0, "block");
  args.requireRange(taken.block.size() == size_t{1} << taken.handle->counts->clusterBits(), "block.length",
                    "one cluster");
  return taken;
}

using BlockSearch = size_t (*)(const ReferenceCounts&, Bytes block, unsigned order, uint64_t firstCluster,
                               size_t first, Span<double> out);

// Writes what `search` finds in a block from index `first` on to `out`, in rows of `stride` numbers.
template <BlockSearch search, size_t stride>
napi_value searchBlock(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t first = args.natural(3, "first");
  const auto [order, firstCluster, handle, block] = takeBlock(args);
  if (!handle) return nullptr;
  const Span<double> out = args.doubles(4, "out");
  args.requireRange(first <= refcountsIn(block.size(), order), "first", "inside the block");
  args.requireRange(out.size() >= stride, "out.length", "at least " + std::to_string(stride));
  if (args.failed()) return nullptr;
  const size_t found =
      search(*handle->counts, block, order, firstCluster, static_cast<size_t>(first), out);
  return number(env, static_cast<double>(found));
}

napi_value fill(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto [order, firstCluster, handle, block] = takeBlock(args);
  if (!handle) return nullptr;
  if (args.failed()) return nullptr;
  const uint64_t tooLarge = fillBlock(*handle->counts, block, order, firstCluster);
  return number(env, tooLarge == kAllFit ? -1 : static_cast<double>(tooLarge));
}

napi_value addTo(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const bool subtract = args.boolean(3, "subtract");
  const auto [order, firstCluster, handle, block] = takeBlock(args);
  if (!handle) return nullptr;
  if (args.failed()) return nullptr;
  const uint64_t misfit = addToBlock(*handle->counts, block, order, firstCluster, subtract);
  return number(env, misfit == kAllFit ? -1 : static_cast<double>(misfit));
}

napi_value countStored(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto [order, firstCluster, handle, block] = takeBlock(args);
  if (!handle) return nullptr;
  if (args.failed()) return nullptr;
  const bool fits = countBlock(*handle->counts, block, order, firstCluster);
  account(env, *handle);
  return fits ? undefined(env) : throwLimit(env);
}

napi_value correct(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t flags = args.natural(1, "flags", kMaxL2Flags);
  const bool toSet = args.boolean(3, "toSet");
  args.requireFixedLength(0, "tables");
  args.requireFixedLength(2, "times");
  args.requireFixedLength(4, "changed");
  const auto handle = takeSelf(args);
  if (!handle) return nullptr;
  const L2Format format = l2FormatFor(args, flags, handle->counts->clusterBits());
  const MutableBytes tables = args.bytes(0, "tables");
  const Span<const uint32_t> times = args.words(2, "times");
  const Span<double> changed = args.doubles(4, "changed");
  requireTables(args, tables, times, format);
  args.requireRange(changed.size() >= times.size() * kChangedStride, "changed.length",
                    "at least " + std::to_string(kChangedStride) + " for each table");
  if (args.failed()) return nullptr;
  auto work = std::make_unique<CopiedWork>(handle, format, tables, times, toSet, changed);
  return Work::start(env, std::move(work), "qcow2.correctCopied",
                     {args.self(), args.value(0), args.value(2), args.value(4)});
}

napi_value copied(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t flags = args.natural(1, "flags", kMaxL2Flags);
  const uint64_t first = args.natural(2, "first");
  const auto handle = takeSelf(args);
  if (!handle) return nullptr;
  const L2Format format = l2FormatFor(args, flags, handle->counts->clusterBits());
  const Bytes table = takeL2Table(args, 0, format);
  const Span<double> out = args.doubles(3, "out");
  args.requireRange(first <= table.size() / format.entrySize(), "first", "inside the table");
  args.requireRange(out.size() >= kCopiedStride, "out.length", "at least " + std::to_string(kCopiedStride));
  if (args.failed()) return nullptr;
  const size_t found = copiedMismatches(*handle->counts, format, table, static_cast<size_t>(first), out);
  return number(env, static_cast<double>(found));
}

}  // namespace

bool initReferenceCounts(napi_env env, napi_value exports) {
  const Function methods[] = {
      {"extend", extend},
      {"add", add},
      {"addL2Table", addTable},
      {"addL2Tables", addTables},
      {"get", get},
      {"nextUsed", next<&ReferenceCounts::nextUsed>},
      {"nextFree", next<&ReferenceCounts::nextFree>},
      {"countUsed", next<&ReferenceCounts::countUsed>},
      {"usedEnd", usedEnd},
      {"isShared", isShared},
      {"compareBlock", searchBlock<compareBlock, kMismatchStride>},
      {"fillBlock", fill},
      {"addToBlock", addTo},
      {"lastReferences", searchBlock<lastReferences, kRunOfClusters>},
      {"countBlock", countStored},
      {"correctCopied", correct},
      {"copiedMismatches", copied},
  };
  constexpr size_t count = sizeof methods / sizeof methods[0];
  napi_property_descriptor properties[count] = {};
  for (size_t index = 0; index < count; ++index) {
    properties[index].utf8name = methods[index].name;
    properties[index].method = methods[index].call;
    properties[index].attributes = napi_default_method;
  }
  napi_value constructor;
  return napi_define_class(env, "ReferenceCounts", NAPI_AUTO_LENGTH, construct, nullptr, count, properties,
                           &constructor) == napi_ok &&
         napi_set_named_property(env, exports, "ReferenceCounts", constructor) == napi_ok;
}

}  // namespace qcow2::binding
