// Builds the error and its properties.
#include "binding/os_error.h"

#include <cstring>
#include <string>

#include "os/error_name.h"

namespace qcow2::binding {
namespace {

napi_value text(napi_env env, const std::string& value) {
  napi_value result = nullptr;
  napi_create_string_utf8(env, value.data(), value.size(), &result);
  return result;
}

}  // namespace

napi_value systemError(napi_env env, const OsResult& failed) {
  const std::string name = errorName(failed.error);
  const napi_value code = text(env, name);
  const napi_value message = text(env, name + ": " + std::strerror(failed.error) + ", " + failed.syscall);
  const napi_value syscall = text(env, failed.syscall);
  napi_value number = nullptr;
  napi_value error = nullptr;
  if (code == nullptr || message == nullptr || syscall == nullptr ||
      napi_create_int32(env, -failed.error, &number) != napi_ok ||
      napi_create_error(env, code, message, &error) != napi_ok ||
      napi_set_named_property(env, error, "errno", number) != napi_ok ||
      napi_set_named_property(env, error, "syscall", syscall) != napi_ok) {
    return nullptr;
  }
  return error;
}

}  // namespace qcow2::binding
