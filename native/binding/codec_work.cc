// What the batches do on their thread, and what they say afterwards.
#include "binding/codec_work.h"

#include <cerrno>

#include "binding/bindings.h"
#include "binding/os_error.h"

namespace qcow2::binding {

void DecodeOne::execute() noexcept {
  const CodecPool::Lease context(*pool_);
  result_ = context->decode(codec_, job_.in, job_.out);
}

napi_value DecodeOne::settle(napi_env env, bool*) noexcept {
  return number(env, static_cast<double>(result_));
}

void DecodeBatch::execute() noexcept {
  const CodecPool::Lease context(*pool_);
  for (size_t i = 0; i < jobs_.size(); ++i) {
    const DecodeResult result = context->decode(codec_, jobs_[i].in, jobs_[i].out);
    results_[i] = static_cast<unsigned char>(result);
    if (result != DecodeResult::kOk) ++failures_;
  }
}

napi_value DecodeBatch::settle(napi_env env, bool*) noexcept {
  return number(env, static_cast<double>(failures_));
}

void EncodeBatch::execute() noexcept {
  const CodecPool::Lease context(*pool_);
  for (size_t i = 0; i < lengths_.size(); ++i) {
    const Bytes cluster = in_.subspan(i * options_.cluster_size, options_.cluster_size);
    const size_t length =
        context->encode(options_.codec, options_.level, cluster, out_.subspan(written_, options_.limit));
    if (length == kEncodeFailed) {
      no_memory_ = true;
      return;
    }
    lengths_[i] = static_cast<double>(length);
    written_ += length;
  }
}

napi_value EncodeBatch::settle(napi_env env, bool* failed) noexcept {
  *failed = no_memory_;
  if (no_memory_) return systemError(env, OsResult::failed("compress", ENOMEM));
  return number(env, static_cast<double>(written_));
}

}  // namespace qcow2::binding
