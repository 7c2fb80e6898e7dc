// Extents as JSON text for JavaScript.
#include "core/extent_json.h"

#include <string>

#include "binding/arguments.h"
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

napi_value writeJson(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const Span<double> extents = args.doubles(0, "extents");
  const MutableBytes out = args.bytes(1, "out");
  args.requireRange(out.size() / kMaxExtentJson >= extents.size() / kExtentStride, "out.length",
                    "at least " + std::to_string(kMaxExtentJson) + " for each extent");
  args.requireValue(args.failed() || areExtents(extents), "extents", "must be rows of whole numbers");
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(writeExtentJson(extents, out)));
}

}  // namespace

bool initExtentJson(napi_env env, napi_value exports) {
  return exportFunctions(env, exports, {{"extentJson", writeJson}});
}

}  // namespace qcow2::binding
