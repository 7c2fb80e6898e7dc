// Open-file-description locks on byte ranges, which QEMU uses to guard images. Linux only; elsewhere
// kUnsupported: POSIX locks are no substitute, because closing any descriptor of the file drops them.
#ifndef QCOW2_OS_LOCK_H_
#define QCOW2_OS_LOCK_H_

#include <cstdint>

#include "os/result.h"

namespace qcow2 {

// The value of a lock result.
enum class LockState : int64_t {
  // Taken, dropped, or found free.
  kFree = 0,
  // Somebody else's lock is in the way.
  kConflict = 1,
};

enum class LockKind : uint8_t { kShared, kUnlocked };

// Takes a shared lock on the range or drops it; never waits.
OsResult lockBytes(int fd, int64_t start, int64_t length, LockKind kind);

// Whether an exclusive lock on the range would meet another open file's lock; takes nothing.
OsResult probeLock(int fd, int64_t start, int64_t length);

}  // namespace qcow2

#endif  // QCOW2_OS_LOCK_H_
