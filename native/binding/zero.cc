// Zero detection for JavaScript.
#include "core/zero.h"

#include "binding/arguments.h"
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

constexpr int64_t kMaxGranularity = int64_t{1} << 31;

napi_value testZero(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const MutableBytes data = args.bytes(0, "buffer");
  if (args.failed()) return nullptr;
  return boolean(env, isZero(data));
}

napi_value findRuns(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const int64_t granularity = args.integer(1, "granularity", 1, kMaxGranularity);
  const MutableBytes data = args.bytes(0, "buffer");
  const Span<double> out = args.doubles(2, "out");
  // With room for two ends every call gets on, even when the buffer begins with zeros.
  args.requireRange(out.size() >= 2, "out.length", "at least 2");
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(zeroRuns(data, static_cast<size_t>(granularity), out)));
}

}  // namespace

bool initZero(napi_env env, napi_value exports) {
  return exportFunctions(env, exports, {{"isZero", testZero}, {"zeroRuns", findRuns}});
}

}  // namespace qcow2::binding
