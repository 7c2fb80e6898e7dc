// System calls for JavaScript: those that may move data or metadata run on the thread pool, the cheap ones at
// once.
#include <climits>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/os_error.h"
#include "binding/work.h"
#include "os/lock.h"
#include "os/pipe.h"
#include "os/read_cached.h"
#include "os/seek.h"
#include "os/space.h"

namespace qcow2::binding {
namespace {

// Where the interface speaks in numbers (unsupported in lib/native/files.ts).
constexpr double kUnsupportedNumber = -2;

// What a file and a range in it look like as arguments.
struct FileRange {
  int fd;
  int64_t offset;
  int64_t length;
};

int fileDescriptor(Arguments& args, size_t index, const char* name) {
  return static_cast<int>(args.integer(index, name, 0, INT_MAX));
}

// From argument `index` on: fd, offset, length. A length of 0 means "nothing" here but "to the end" to the
// kernel.
FileRange fileRange(Arguments& args, size_t index) {
  FileRange range;
  range.fd = fileDescriptor(args, index, "fd");
  range.offset = args.integer(index + 1, "offset", 0, kMaxSafeInteger);
  range.length = args.integer(index + 2, "length", 1, kMaxSafeInteger);
  args.requireRange(range.offset <= kMaxSafeInteger - range.length, "length",
                    "such that the range ends below 2^53");
  return range;
}

napi_value throwSystemError(napi_env env, const OsResult& failed) {
  const napi_value error = systemError(env, failed);
  if (error != nullptr) napi_throw(env, error);
  return nullptr;
}

// A system call on the thread pool: whether it was done, or is unsupported.
template <typename Call>
class OsWork : public Work {
 public:
  explicit OsWork(Call call) : call_(std::move(call)) {}

 protected:
  void execute() noexcept override { result_ = call_(); }

  napi_value settle(napi_env env, bool* failed) noexcept override {
    *failed = result_.kind == OsResult::Kind::kFailed;
    if (*failed) return systemError(env, result_);
    return boolean(env, result_.kind == OsResult::Kind::kDone);
  }

 private:
  const Call call_;
  OsResult result_;
};

// Bytes of a pipe; resolves with how many, and says in `ended` when they were the last.
class PipeWork : public Work {
 public:
  PipeWork(int fd, MutableBytes buffer, MutableBytes ended) : fd_(fd), buffer_(buffer), ended_(ended) {}

 protected:
  void execute() noexcept override { result_ = readPipe(fd_, buffer_, has_ended_); }

  napi_value settle(napi_env env, bool* failed) noexcept override {
    *failed = result_.kind == OsResult::Kind::kFailed;
    if (*failed) return systemError(env, result_);
    if (has_ended_) ended_[0] = 1;
    const bool done = result_.kind == OsResult::Kind::kDone;
    return number(env, done ? static_cast<double>(result_.value) : kUnsupportedNumber);
  }

 private:
  const int fd_;
  const MutableBytes buffer_;
  const MutableBytes ended_;
  bool has_ended_ = false;
  OsResult result_;
};

template <typename Call>
napi_value start(napi_env env, const char* name, Call call) {
  return Work::start(env, std::make_unique<OsWork<Call>>(std::move(call)), name);
}

napi_value answerNow(napi_env env, const OsResult& result) {
  if (result.kind == OsResult::Kind::kFailed) return throwSystemError(env, result);
  return number(
      env, result.kind == OsResult::Kind::kDone ? static_cast<double>(result.value) : kUnsupportedNumber);
}

napi_value punch(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const FileRange range = fileRange(args, 0);
  if (args.failed()) return nullptr;
  return start(env, "qcow2.punchHole",
                      [=] { return punchHole(range.fd, range.offset, range.length); });
}

napi_value reserve(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const FileRange range = fileRange(args, 0);
  const bool keep_size = args.boolean(3, "keepSize");
  if (args.failed()) return nullptr;
  return start(env, "qcow2.allocate",
                      [=] { return allocate(range.fd, range.offset, range.length, keep_size); });
}

napi_value seek(napi_env env, napi_callback_info info, OsResult (*find)(int, int64_t)) noexcept {
  Arguments args(env, info);
  const int fd = fileDescriptor(args, 0, "fd");
  const int64_t offset = args.integer(1, "offset", 0, kMaxSafeInteger);
  if (args.failed()) return nullptr;
  return answerNow(env, find(fd, offset));
}

napi_value findData(napi_env env, napi_callback_info info) noexcept { return seek(env, info, seekData); }
napi_value findHole(napi_env env, napi_callback_info info) noexcept { return seek(env, info, seekHole); }

LockKind lockKind(Arguments& args, size_t index) {
  // Room for the longer word, one character that must not be there, and the end.
  char kind[8] = "";
  const napi_value value = args.value(index);
  if (value != nullptr) napi_get_value_string_utf8(args.env(), value, kind, sizeof kind, nullptr);
  const bool shared = std::strcmp(kind, "read") == 0;
  args.requireValue(shared || std::strcmp(kind, "unlock") == 0, "kind", "must be \"read\" or \"unlock\"");
  return shared ? LockKind::kShared : LockKind::kUnlocked;
}

napi_value lock(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const FileRange range = fileRange(args, 0);
  const LockKind kind = lockKind(args, 3);
  if (args.failed()) return nullptr;
  return answerNow(env, lockBytes(range.fd, range.offset, range.length, kind));
}

napi_value probe(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const FileRange range = fileRange(args, 0);
  if (args.failed()) return nullptr;
  return answerNow(env, probeLock(range.fd, range.offset, range.length));
}

napi_value readNow(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const int fd = fileDescriptor(args, 0, "fd");
  const int64_t offset = args.integer(1, "offset", 0, kMaxSafeInteger);
  const MutableBytes buffer = args.bytes(2, "buffer");
  if (args.failed()) return nullptr;
  return answerNow(env, readCached(fd, offset, buffer));
}

napi_value readMuch(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(1, "buffer");
  args.requireFixedLength(2, "ended");
  const int fd = fileDescriptor(args, 0, "fd");
  const MutableBytes buffer = args.bytes(1, "buffer");
  const MutableBytes ended = args.bytes(2, "ended");
  args.requireRange(ended.size() > 0, "ended.length", "at least 1");
  if (args.failed()) return nullptr;
  return Work::start(env, std::make_unique<PipeWork>(fd, buffer, ended), "qcow2.readPipe",
                     {args.value(1), args.value(2)});
}

}  // namespace

bool initOs(napi_env env, napi_value exports) {
  return exportFunctions(env, exports,
                         {{"punchHole", punch},
                          {"allocate", reserve},
                          {"seekData", findData},
                          {"seekHole", findHole},
                          {"lockBytes", lock},
                          {"probeLock", probe},
                          {"readCached", readNow},
                          {"readPipe", readMuch}});
}

}  // namespace qcow2::binding
