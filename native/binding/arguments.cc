// Taking a call's arguments from JavaScript: each is checked, and the first wrong one becomes a coded
// exception.
#include "binding/arguments.h"

#include <cmath>

namespace qcow2::binding {

Arguments::Arguments(napi_env env, napi_callback_info info) : env_(env) {
  if (napi_get_cb_info(env, info, &count_, values_, &self_, &data_) != napi_ok) {
    napi_throw_error(env, nullptr, "The arguments of a native call could not be read");
    failed_ = true;
  }
}

void Arguments::failType(const char* name, const char* expected) {
  if (failed_) return;
  failed_ = true;
  const std::string message = "The \"" + std::string(name) + "\" argument must be " + expected;
  napi_throw_type_error(env_, "ERR_INVALID_ARG_TYPE", message.c_str());
}

void Arguments::requireRange(bool holds, const char* name, const std::string& expected) {
  if (failed_ || holds) return;
  failed_ = true;
  const std::string message =
      "The value of \"" + std::string(name) + "\" is out of range. It must be " + expected;
  napi_throw_range_error(env_, "ERR_OUT_OF_RANGE", message.c_str());
}

void Arguments::requireValue(bool holds, const char* name, const std::string& reason) {
  if (failed_ || holds) return;
  failed_ = true;
  const std::string message = "The argument \"" + std::string(name) + "\" " + reason;
  napi_throw_type_error(env_, "ERR_INVALID_ARG_VALUE", message.c_str());
}

int64_t Arguments::integer(size_t index, const char* name, int64_t min, int64_t max) {
  if (failed_) return 0;
  double number;
  if (index >= count_ || napi_get_value_double(env_, values_[index], &number) != napi_ok) {
    failType(name, "of type number");
    return 0;
  }
  // NaN fails every comparison.
  const bool fits = number >= static_cast<double>(min) && number <= static_cast<double>(max) &&
                    std::trunc(number) == number;
  if (!fits) {
    requireRange(false, name, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return 0;
  }
  return static_cast<int64_t>(number);
}

uint64_t Arguments::natural(size_t index, const char* name, uint64_t max) {
  return static_cast<uint64_t>(integer(index, name, 0, static_cast<int64_t>(max)));
}

bool Arguments::boolean(size_t index, const char* name) {
  if (failed_) return false;
  bool result = false;
  if (index >= count_ || napi_get_value_bool(env_, values_[index], &result) != napi_ok) {
    failType(name, "of type boolean");
  }
  return result;
}

void* Arguments::typedArray(size_t index, const char* name, napi_typedarray_type type, const char* expected,
                            size_t* length) {
  *length = 0;
  if (failed_) return nullptr;
  bool isTypedArray = false;
  if (index < count_) napi_is_typedarray(env_, values_[index], &isTypedArray);
  napi_typedarray_type found = napi_int8_array;
  void* data = nullptr;
  napi_value buffer = nullptr;
  size_t elements = 0;
  if (!isTypedArray ||
      napi_get_typedarray_info(env_, values_[index], &found, &elements, &data, &buffer, nullptr) != napi_ok ||
      found != type) {
    failType(name, expected);
    return nullptr;
  }
  bool isArrayBuffer = false;
  if (napi_is_arraybuffer(env_, buffer, &isArrayBuffer) != napi_ok || !isArrayBuffer) {
    failType(name, "a view of an ArrayBuffer; shared memory is refused");
    return nullptr;
  }
  bool detached = true;
  if (napi_is_detached_arraybuffer(env_, buffer, &detached) != napi_ok || detached) {
    requireValue(false, name, "is a view of a detached ArrayBuffer");
    return nullptr;
  }
  *length = elements;
  return data;
}

MutableBytes Arguments::bytes(size_t index, const char* name) {
  size_t length;
  void* data = typedArray(index, name, napi_uint8_array, "a Uint8Array", &length);
  return {static_cast<unsigned char*>(data), length};
}

Span<uint32_t> Arguments::words(size_t index, const char* name) {
  size_t length;
  void* data = typedArray(index, name, napi_uint32_array, "a Uint32Array", &length);
  return {static_cast<uint32_t*>(data), length};
}

Span<double> Arguments::doubles(size_t index, const char* name) {
  size_t length;
  void* data = typedArray(index, name, napi_float64_array, "a Float64Array", &length);
  return {static_cast<double*>(data), length};
}

void Arguments::requireFixedLength(size_t index, const char* name) {
  bool isTypedArray = false;
  if (failed_ || index >= count_) return;
  napi_is_typedarray(env_, values_[index], &isTypedArray);
  // The view that is taken later complains of everything else.
  if (!isTypedArray) return;
  napi_value buffer;
  napi_value resizable;
  if (napi_get_typedarray_info(env_, values_[index], nullptr, nullptr, nullptr, &buffer, nullptr) !=
          napi_ok ||
      napi_get_named_property(env_, buffer, "resizable", &resizable) != napi_ok) {
    failed_ = true;
    return;
  }
  bool isResizable = false;
  // Undefined where the engine has no resizable buffers: then the call fails and leaves `false`.
  napi_get_value_bool(env_, resizable, &isResizable);
  requireValue(!isResizable, name, "is a view of a resizable ArrayBuffer");
}

}  // namespace qcow2::binding
