// Where a buffer lies in memory.
#include "binding/arguments.h"
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

constexpr int64_t kMaxAlignment = int64_t{1} << 21;

napi_value misalignmentOf(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const int64_t alignment = args.integer(1, "alignment", 1, kMaxAlignment);
  const MutableBytes buffer = args.bytes(0, "buffer");
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(reinterpret_cast<uintptr_t>(buffer.data()) %
                                         static_cast<uintptr_t>(alignment)));
}

}  // namespace

bool initMemory(napi_env env, napi_value exports) {
  return exportFunctions(env, exports, {{"misalignment", misalignmentOf}});
}

}  // namespace qcow2::binding
