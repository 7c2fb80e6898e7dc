// The addon's entry: every binding file adds its functions to the exports. There are no globals, so that each
// worker thread may load the addon for itself.
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

using Init = bool (*)(napi_env env, napi_value exports);

// One entry for each binding file.
constexpr Init kInits[] = {
    initCodec, initL2, initOs, initRefcount, initReferenceCounts, initXts, initZero,
};

}  // namespace

bool exportFunctions(napi_env env, napi_value exports, std::initializer_list<Function> functions) {
  for (const Function& function : functions) {
    napi_value value;
    if (napi_create_function(env, function.name, NAPI_AUTO_LENGTH, function.call, nullptr, &value) !=
            napi_ok ||
        napi_set_named_property(env, exports, function.name, value) != napi_ok) {
      return false;
    }
  }
  return true;
}

napi_value number(napi_env env, double value) {
  napi_value result = nullptr;
  napi_create_double(env, value, &result);
  return result;
}

napi_value boolean(napi_env env, bool value) {
  napi_value result = nullptr;
  napi_get_boolean(env, value, &result);
  return result;
}

napi_value undefined(napi_env env) {
  napi_value result = nullptr;
  napi_get_undefined(env, &result);
  return result;
}

}  // namespace qcow2::binding

NAPI_MODULE_INIT() {
  for (const auto init : qcow2::binding::kInits) {
    if (!init(env, exports)) return nullptr;
  }
  return exports;
}
