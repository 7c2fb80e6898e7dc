// Taking a call's arguments from JavaScript: each is checked, and the first wrong one becomes a coded
// exception.
//
// Usage: convert every scalar, then take the buffers, then `require` what must hold between them, and give up
// when failed(). Nothing here but requireFixedLength() runs JavaScript code, which might detach a buffer.
#ifndef QCOW2_BINDING_ARGUMENTS_H_
#define QCOW2_BINDING_ARGUMENTS_H_

#include <node_api.h>

#include <cstdint>
#include <string>

#include "core/span.h"

namespace qcow2::binding {

// Number.MAX_SAFE_INTEGER
constexpr int64_t kMaxSafeInteger = (int64_t{1} << 53) - 1;

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info);

  // Once an argument was wrong an exception is pending, and everything that follows does nothing and returns
  // zeros.
  bool failed() const { return failed_; }
  napi_env env() const { return env_; }
  napi_value self() const { return self_; }
  // What the function was made with.
  void* data() const { return data_; }
  napi_value value(size_t index) const { return index < count_ ? values_[index] : nullptr; }

  // An integer from `min` to `max`, which are safe integers.
  int64_t integer(size_t index, const char* name, int64_t min, int64_t max);
  uint64_t natural(size_t index, const char* name, uint64_t max = kMaxSafeInteger);
  bool boolean(size_t index, const char* name);

  // Views of a Uint8Array (or Buffer), Uint32Array, Float64Array; valid until JavaScript runs again.
  // Memory shared between threads is refused, and so are detached buffers.
  MutableBytes bytes(size_t index, const char* name);
  Span<uint32_t> words(size_t index, const char* name);
  Span<double> doubles(size_t index, const char* name);
  // Fails unless the buffer of the typed array at `index` has a fixed length: a worker cannot use one that
  // may shrink. This reads a property, so call it before taking any view.
  void requireFixedLength(size_t index, const char* name);

  // Fails with ERR_OUT_OF_RANGE / ERR_INVALID_ARG_VALUE unless `holds`. `expected` follows "It must be";
  // `reason` follows the argument's name.
  void requireRange(bool holds, const char* name, const std::string& expected);
  void requireValue(bool holds, const char* name, const std::string& reason);

 private:
  static constexpr size_t kMaxArguments = 14;

  void failType(const char* name, const char* expected);
  void* typedArray(size_t index, const char* name, napi_typedarray_type type, const char* expected,
                   size_t* length);

  napi_env env_;
  napi_value self_ = nullptr;
  void* data_ = nullptr;
  size_t count_ = kMaxArguments;
  napi_value values_[kMaxArguments] = {};
  bool failed_ = false;
};

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_ARGUMENTS_H_
