// The addon's entry: every binding file adds its functions to the exports. There are no globals, so that each
// worker thread may load the addon for itself.
#include <napi.h>

#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

using Init = bool (*)(napi_env env, napi_value exports);

// One entry for each binding file.
constexpr Init kInits[] = {
    initBitSet,   initCodec,           initComparison, initExtentJson, initL2,  initL2Picture, initMemory, initOs,
    initRefcount, initReferenceCounts, initSmallWrites, initTransfer, initXts, initZero,
};

}  // namespace

bool exportFunctions(napi_env env, napi_value exports, std::initializer_list<Function> functions) {
  for (const Function& function : functions) {
    napi_value value;
    if (napi_create_function(env, function.name, NAPI_AUTO_LENGTH, function.call, function.data, &value) !=
            napi_ok ||
        napi_set_named_property(env, exports, function.name, value) != napi_ok) {
      return false;
    }
  }
  return true;
}

napi_value number(napi_env env, double value) { return Napi::Number::New(env, value); }
napi_value boolean(napi_env env, bool value) { return Napi::Boolean::New(env, value); }
napi_value undefined(napi_env env) { return Napi::Env(env).Undefined(); }

}  // namespace qcow2::binding

static Napi::Object initAddon(Napi::Env env, Napi::Object exports) {
  for (const auto init : qcow2::binding::kInits) {
    // An exception is pending then, and what is returned does not matter.
    if (!init(env, exports)) break;
  }
  return exports;
}

NODE_API_MODULE(qcow2, initAddon)
