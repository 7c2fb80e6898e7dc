// fcntl(2) with F_OFD_SETLK and F_OFD_GETLK.
#include "os/lock.h"

#ifdef __linux__
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace qcow2 {

#if defined(__linux__) && defined(F_OFD_SETLK)

namespace {

struct flock flockOn(int type, int64_t start, int64_t length) {
  struct flock range = {};
  range.l_type = static_cast<int16_t>(type);
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = length;
  // The kernel demands 0 for open-file-description locks.
  range.l_pid = 0;
  return range;
}

OsResult state(LockState state) { return OsResult::done(static_cast<int64_t>(state)); }

// Runs the command again while a signal interrupts it.
int fcntlUninterrupted(int fd, int command, struct flock* range) {
  int status;
  do {
    status = fcntl(fd, command, range);
  } while (status != 0 && errno == EINTR);
  return status;
}

}  // namespace

OsResult lockBytes(int fd, int64_t start, int64_t length, LockKind kind) {
  struct flock range = flockOn(kind == LockKind::kShared ? F_RDLCK : F_UNLCK, start, length);
  if (fcntlUninterrupted(fd, F_OFD_SETLK, &range) == 0) return state(LockState::kFree);
  if (errno == EAGAIN || errno == EACCES) return state(LockState::kConflict);
  return OsResult::failed("fcntl", errno);
}

OsResult probeLock(int fd, int64_t start, int64_t length) {
  struct flock range = flockOn(F_WRLCK, start, length);
  if (fcntlUninterrupted(fd, F_OFD_GETLK, &range) != 0) return OsResult::failed("fcntl", errno);
  return state(range.l_type == F_UNLCK ? LockState::kFree : LockState::kConflict);
}

#else

OsResult lockBytes(int, int64_t, int64_t, LockKind) { return OsResult::unsupported(); }
OsResult probeLock(int, int64_t, int64_t) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
