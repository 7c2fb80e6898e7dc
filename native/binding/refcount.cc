// Refcount blocks for JavaScript.
#include "core/refcount.h"

#include <algorithm>

#include "binding/arguments.h"
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

constexpr size_t kMaxBlockBytes = size_t{1} << 21;

unsigned takeOrder(Arguments& args) {
  return static_cast<unsigned>(args.natural(1, "order", kMaxRefcountOrder));
}

// A refcount block: whole words, at most the largest cluster.
MutableBytes takeBlock(Arguments& args) {
  const MutableBytes block = args.bytes(0, "block");
  args.requireRange(block.size() % 8 == 0 && block.size() <= kMaxBlockBytes, "block.length",
                    "a multiple of 8 and at most " + std::to_string(kMaxBlockBytes));
  return block;
}

struct Indexes {
  MutableBytes block;
  unsigned order;
  size_t first;
  size_t end;
};

// The arguments (block, order, first, count), count being an end instead for `endIsGiven`.
Indexes takeIndexes(Arguments& args, bool endIsGiven) {
  const unsigned order = takeOrder(args);
  const uint64_t first = args.natural(2, "first");
  const uint64_t second = args.natural(3, endIsGiven ? "end" : "count");
  const MutableBytes block = takeBlock(args);
  if (args.failed()) return {};
  const uint64_t entries = refcountsIn(block.size(), order);
  if (endIsGiven) {
    args.requireRange(second <= entries, "end", "inside the block");
    args.requireRange(first <= second, "first", "at most end");
  } else {
    args.requireRange(first <= entries, "first", "inside the block");
    args.requireRange(first <= entries && second <= entries - first, "count",
                      "such that the refcounts end inside the block");
  }
  if (args.failed()) return {};
  return {block, order, static_cast<size_t>(first),
          static_cast<size_t>(endIsGiven ? second : first + second)};
}

napi_value get(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const unsigned order = takeOrder(args);
  const uint64_t index = args.natural(2, "index");
  const MutableBytes block = takeBlock(args);
  args.requireRange(index < refcountsIn(block.size(), order), "index", "inside the block");
  if (args.failed()) return nullptr;
  return number(env, safeNumber(refcountGet(block, order, static_cast<size_t>(index))));
}

napi_value set(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const unsigned order = takeOrder(args);
  const uint64_t max = std::min<uint64_t>(maxRefcount(order), kMaxSafeInteger);
  const uint64_t value = args.natural(4, "value", max);
  const Indexes at = takeIndexes(args, false);
  if (args.failed()) return nullptr;
  refcountSet(at.block, at.order, at.first, at.end - at.first, value);
  return undefined(env);
}

napi_value add(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const int64_t delta = args.integer(4, "delta", -kMaxSafeInteger, kMaxSafeInteger);
  const Indexes at = takeIndexes(args, false);
  if (args.failed()) return nullptr;
  const uint64_t magnitude = static_cast<uint64_t>(delta < 0 ? -delta : delta);
  const size_t stuck = refcountAdd(at.block, at.order, at.first, at.end - at.first, delta < 0, magnitude);
  return number(env, stuck == kAllAdded ? -1 : static_cast<double>(stuck));
}

napi_value nextFree(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const Indexes at = takeIndexes(args, true);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(refcountNextFree(at.block, at.order, at.first, at.end)));
}

napi_value nextUsed(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const Indexes at = takeIndexes(args, true);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(refcountNextUsed(at.block, at.order, at.first, at.end)));
}

napi_value runEnd(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const Indexes at = takeIndexes(args, true);
  args.requireRange(args.failed() || at.first < at.end, "first", "below end");
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(refcountRunEnd(at.block, at.order, at.first, at.end)));
}

napi_value countUsed(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const Indexes at = takeIndexes(args, true);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(refcountCountUsed(at.block, at.order, at.first, at.end)));
}

}  // namespace

bool initRefcount(napi_env env, napi_value exports) {
  return exportFunctions(env, exports,
                         {
                             {"refcountGet", get},
                             {"refcountSet", set},
                             {"refcountAdd", add},
                             {"refcountNextFree", nextFree},
                             {"refcountNextUsed", nextUsed},
                             {"refcountRunEnd", runEnd},
                             {"refcountCountUsed", countUsed},
                         });
}

}  // namespace qcow2::binding
