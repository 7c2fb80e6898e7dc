// Sets of numbers for JavaScript, which owns their memory.
#include "core/bit_set.h"

#include "binding/arguments.h"
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

struct BitRange {
  MutableBytes bits;
  uint64_t first = 0;
  uint64_t end = 0;
};

// The arguments `bits`, `first` and `end`, in this order.
BitRange takeRange(Arguments& args) {
  const uint64_t first = args.natural(1, "first");
  const uint64_t end = args.natural(2, "end");
  const MutableBytes bits = args.bytes(0, "bits");
  args.requireRange(end <= uint64_t{bits.size()} * 8, "end", "inside the bits");
  args.requireRange(first <= end, "first", "at most end");
  if (args.failed()) return {};
  return {bits, first, end};
}

napi_value set(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const bool value = args.boolean(3, "value");
  const BitRange range = takeRange(args);
  if (args.failed()) return nullptr;
  setBits(range.bits, range.first, range.end, value);
  return undefined(env);
}

napi_value count(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const BitRange range = takeRange(args);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(countBits(range.bits, range.first, range.end)));
}

napi_value next(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const bool value = args.boolean(3, "value");
  const BitRange range = takeRange(args);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(nextBit(range.bits, range.first, range.end, value)));
}

napi_value combine(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto operation = static_cast<BitOperation>(args.integer(2, "operation", 0, 2));
  const MutableBytes target = args.bytes(0, "target");
  const MutableBytes source = args.bytes(1, "source");
  args.requireRange(source.size() == target.size(), "source.length", "that of the target");
  if (args.failed()) return nullptr;
  combineBits(target, source, operation);
  return undefined(env);
}

}  // namespace

bool initBitSet(napi_env env, napi_value exports) {
  return exportFunctions(
      env, exports,
      {{"bitsSet", set}, {"bitsCount", count}, {"bitsNext", next}, {"bitsCombine", combine}});
}

}  // namespace qcow2::binding
