// What the files of this folder share: how functions are exported and results made.
#ifndef QCOW2_BINDING_BINDINGS_H_
#define QCOW2_BINDING_BINDINGS_H_

#include <node_api.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "binding/arguments.h"

namespace qcow2::binding {

struct Function {
  const char* name;
  napi_callback call;
  // What Arguments::data() gives; it has to be there as long as the environment.
  void* data = nullptr;
};

// Adds functions to the addon; false with an exception pending when the environment refuses.
bool exportFunctions(napi_env env, napi_value exports, std::initializer_list<Function> functions);

// Results; nullptr with an exception pending when the environment refuses.
napi_value number(napi_env env, double value);
napi_value boolean(napi_env env, bool value);
napi_value undefined(napi_env env);

// Numbers past Number.MAX_SAFE_INTEGER become that.
inline double safeNumber(uint64_t value) {
  return static_cast<double>(std::min<uint64_t>(value, kMaxSafeInteger));
}

// One for each binding file: adds what it offers to the addon. They are called from addon.cc.
bool initBitSet(napi_env env, napi_value exports);
bool initCodec(napi_env env, napi_value exports);
bool initComparison(napi_env env, napi_value exports);
bool initExtentJson(napi_env env, napi_value exports);
bool initL2(napi_env env, napi_value exports);
bool initMemory(napi_env env, napi_value exports);
bool initL2Picture(napi_env env, napi_value exports);
bool initOs(napi_env env, napi_value exports);
bool initSmallWrites(napi_env env, napi_value exports);
bool initRefcount(napi_env env, napi_value exports);
bool initXts(napi_env env, napi_value exports);
bool initReferenceCounts(napi_env env, napi_value exports);
bool initTransfer(napi_env env, napi_value exports);
bool initZero(napi_env env, napi_value exports);

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_BINDINGS_H_
