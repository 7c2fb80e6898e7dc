// The life of a piece of work: made by start(), owned by the queue, deleted by onComplete().
#include "binding/work.h"

namespace qcow2::binding {

napi_value Work::start(napi_env env, std::unique_ptr<Work> work, const char* name,
                       std::initializer_list<napi_value> held) {
  napi_value label;
  napi_value promise;
  const bool ready =
      work->hold(env, held) && napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &label) == napi_ok &&
      napi_create_async_work(env, nullptr, label, onExecute, onComplete, work.get(), &work->handle_) ==
          napi_ok &&
      napi_create_promise(env, &work->promise_, &promise) == napi_ok &&
      napi_queue_async_work(env, work->handle_) == napi_ok;
  if (!ready) {
    work->release(env);
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (!pending) napi_throw_error(env, nullptr, "Native work could not be started");
    return nullptr;
  }
  // onComplete() takes it back.
  work.release();
  return promise;
}

void Work::onExecute(napi_env, void* data) noexcept { static_cast<Work*>(data)->execute(); }

void Work::onComplete(napi_env env, napi_status status, void* data) noexcept {
  const std::unique_ptr<Work> work(static_cast<Work*>(data));
  work->release(env);
  // Cancelled before it ran, which only the end of the environment does.
  if (status != napi_ok) return;
  bool failed = false;
  const napi_value value = work->settle(env, &failed);
  // While the environment is torn down no value can be made and nobody waits for the promise.
  if (value == nullptr) return;
  if (failed) {
    napi_reject_deferred(env, work->promise_, value);
  } else {
    napi_resolve_deferred(env, work->promise_, value);
  }
}

bool Work::hold(napi_env env, std::initializer_list<napi_value> held) {
  for (const napi_value value : held) {
    napi_ref reference;
    if (napi_create_reference(env, value, 1, &reference) != napi_ok) return false;
    references_.push_back(reference);
  }
  return true;
}

void Work::release(napi_env env) {
  for (const napi_ref reference : references_) napi_delete_reference(env, reference);
  references_.clear();
  if (handle_ != nullptr) napi_delete_async_work(env, handle_);
  handle_ = nullptr;
}

}  // namespace qcow2::binding
