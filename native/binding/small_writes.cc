// Small writes for JavaScript: promises of what the environment's own threads write.
#include <algorithm>
#include <climits>
#include <memory>
#include <utility>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "os/small_writer.h"

namespace qcow2::binding {
namespace {

// In lib/native/files.ts.
constexpr size_t kMaxLength = 64 * 1024;
// Shorter ones are copied, which takes less time than holding their memory.
constexpr size_t kMaxCopied = 16 * 1024;

// What a write needs until it is done: a copy of its bytes, or a hold on those of the caller.
struct Request {
  napi_deferred deferred = nullptr;
  std::unique_ptr<unsigned char[]> copy;
  napi_ref held = nullptr;
};

// The threads of an environment, from its first small write to its end.
class SmallWrites {
 public:
  // Null with an exception pending when the environment refuses.
  static SmallWrites* start(napi_env env) noexcept {
    auto* const self = new SmallWrites(env);
    napi_value name;
    // It keeps the event loop going while something is under way, and not otherwise.
    const bool ready =
        napi_create_string_utf8(env, "qcow2.writeSmall", NAPI_AUTO_LENGTH, &name) == napi_ok &&
        napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, self, settleDone,
                                        &self->answer_) == napi_ok &&
        napi_unref_threadsafe_function(env, self->answer_) == napi_ok &&
        // After that function has one, so as to run before it: until the threads have ended they may call it.
        napi_add_env_cleanup_hook(env, destroy, self) == napi_ok;
    if (ready) return self;
    delete self;
    napi_throw_error(env, nullptr, "Threads for small writes could not be started");
    return nullptr;
  }

  // Resolves the request's promise, at once where there is no way to write.
  void add(SmallWriter::Write write, std::unique_ptr<Request> request) noexcept {
    write.owner = request.release();
    if (!writer_.add(write)) {
      settle(write);
    } else if (under_way_++ == 0) {
      napi_ref_threadsafe_function(env_, answer_);
    }
  }

 private:
  explicit SmallWrites(napi_env env) : env_(env), writer_(callAnswer, this) {}

  // The environment lets go itself of what requests hold, and nobody waits for their promises any more.
  static void destroy(void* data) noexcept {
    const std::unique_ptr<SmallWrites> self(static_cast<SmallWrites*>(data));
    for (const SmallWriter::Write& write : self->writer_.stop()) delete static_cast<Request*>(write.owner);
  }

  static void callAnswer(void* self) {
    napi_call_threadsafe_function(static_cast<SmallWrites*>(self)->answer_, nullptr, napi_tsfn_nonblocking);
  }

  // On the environment's thread; without an environment at its end, when nobody waits for an answer.
  static void settleDone(napi_env env, napi_value, void* context, void*) noexcept {
    if (env == nullptr) return;
    auto* const self = static_cast<SmallWrites*>(context);
    for (const SmallWriter::Write& write : self->writer_.takeDone()) {
      self->settle(write);
      self->under_way_ -= 1;
    }
    if (self->under_way_ == 0) napi_unref_threadsafe_function(env, self->answer_);
  }

  void settle(const SmallWriter::Write& write) noexcept {
    const std::unique_ptr<Request> request(static_cast<Request*>(write.owner));
    if (request->held != nullptr) napi_delete_reference(env_, request->held);
    napi_resolve_deferred(env_, request->deferred, boolean(env_, write.isWritten));
  }

  const napi_env env_;
  napi_threadsafe_function answer_ = nullptr;
  size_t under_way_ = 0;
  SmallWriter writer_;
};

// One for each environment, as the functions are.
struct Owner {
  SmallWrites* started = nullptr;
};

void destroyOwner(void* owner) noexcept { delete static_cast<Owner*>(owner); }

napi_value writeSmall(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(1, "data");
  SmallWriter::Write write = {};
  write.fd = static_cast<int>(args.integer(0, "fd", 0, INT_MAX));
  write.position = args.integer(2, "position", 0, kMaxSafeInteger - static_cast<int64_t>(kMaxLength));
  const MutableBytes data = args.bytes(1, "data");
  args.requireRange(data.size() <= kMaxLength, "data.length", "at most 65536");
  if (args.failed()) return nullptr;
  auto* const owner = static_cast<Owner*>(args.data());
  if (owner->started == nullptr) owner->started = SmallWrites::start(env);
  if (owner->started == nullptr) return nullptr;
  auto request = std::make_unique<Request>();
  write.bytes = data;
  if (data.size() <= kMaxCopied) {
    request->copy = std::unique_ptr<unsigned char[]>(new unsigned char[data.size()]);
    std::copy_n(data.data(), data.size(), request->copy.get());
    write.bytes = Bytes(request->copy.get(), data.size());
  } else if (napi_create_reference(env, args.value(1), 1, &request->held) != napi_ok) {
    return nullptr;
  }
  napi_value promise;
  if (napi_create_promise(env, &request->deferred, &promise) != napi_ok) return nullptr;
  owner->started->add(write, std::move(request));
  return promise;
}

}  // namespace

bool initSmallWrites(napi_env env, napi_value exports) {
  auto* const owner = new Owner;
  if (napi_add_env_cleanup_hook(env, destroyOwner, owner) != napi_ok) {
    delete owner;
    return false;
  }
  return exportFunctions(env, exports, {{"writeSmall", writeSmall, owner}});
}

}  // namespace qcow2::binding
