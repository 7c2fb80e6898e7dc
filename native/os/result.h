// What a system call wrapper hands back: a value, an errno, or "this system cannot do that".
#ifndef QCOW2_OS_RESULT_H_
#define QCOW2_OS_RESULT_H_

#include <cstdint>

namespace qcow2 {

struct OsResult {
  enum class Kind : uint8_t {
    kDone,
    // The platform, the kernel or the file system lacks the operation; nothing was changed.
    kUnsupported,
    kFailed,
  };

  Kind kind = Kind::kDone;
  // Set when kDone: an offset, a count of bytes, a LockState, or 0.
  int64_t value = 0;
  // Set when kFailed.
  int error = 0;
  // Set when kFailed: the system call, for the message.
  const char* syscall = "";

  static OsResult done(int64_t value = 0) { return {Kind::kDone, value, 0, ""}; }
  static OsResult unsupported() { return {Kind::kUnsupported, 0, 0, ""}; }
  static OsResult failed(const char* syscall, int error) { return {Kind::kFailed, 0, error, syscall}; }
};

}  // namespace qcow2

#endif  // QCOW2_OS_RESULT_H_
