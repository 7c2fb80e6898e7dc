// Work off the main thread: one promise for one piece, which holds on to its buffers until it is done.
#ifndef QCOW2_BINDING_WORK_H_
#define QCOW2_BINDING_WORK_H_

#include <node_api.h>

#include <initializer_list>
#include <memory>
#include <vector>

namespace qcow2::binding {

class Work {
 public:
  Work() = default;
  virtual ~Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  // Queues the work and returns its promise, or null with an exception pending. `held` are the typed arrays
  // whose memory it uses; they must have a fixed length, and must not be transferred before the promise
  // settles.
  static napi_value start(napi_env env, std::unique_ptr<Work> work, const char* name,
                          std::initializer_list<napi_value> held = {});

 protected:
  // On a thread of the pool: no JavaScript, nothing of the environment.
  virtual void execute() noexcept = 0;
  // On the environment's thread afterwards: the value to resolve with, or, with `failed` set, the error to
  // reject with.
  virtual napi_value settle(napi_env env, bool* failed) noexcept = 0;

 private:
  static void onExecute(napi_env env, void* data) noexcept;
  static void onComplete(napi_env env, napi_status status, void* data) noexcept;
  bool hold(napi_env env, std::initializer_list<napi_value> held);
  void release(napi_env env);

  napi_async_work handle_ = nullptr;
  napi_deferred promise_ = nullptr;
  std::vector<napi_ref> references_;
};

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_WORK_H_
