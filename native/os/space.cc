// fallocate(2) in its two uses.
#include "os/space.h"

#ifdef __linux__
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <cerrno>
#endif

namespace qcow2 {

#ifdef __linux__

namespace {

OsResult changeSpace(int fd, int mode, int64_t offset, int64_t length) {
  int status;
  do {
    status = fallocate(fd, mode, offset, length);
  } while (status != 0 && errno == EINTR);
  if (status == 0) return OsResult::done();
  if (errno == EOPNOTSUPP || errno == ENOSYS) return OsResult::unsupported();
  return OsResult::failed("fallocate", errno);
}

}  // namespace

OsResult punchHole(int fd, int64_t offset, int64_t length) {
  return changeSpace(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

OsResult allocate(int fd, int64_t offset, int64_t length, bool keep_size) {
  return changeSpace(fd, keep_size ? FALLOC_FL_KEEP_SIZE : 0, offset, length);
}

bool gainsFromReserving(int fd) {
  struct statfs system = {};
  return fstatfs(fd, &system) == 0 && system.f_type == EXT4_SUPER_MAGIC;
}

#else

OsResult punchHole(int, int64_t, int64_t) { return OsResult::unsupported(); }
OsResult allocate(int, int64_t, int64_t, bool) { return OsResult::unsupported(); }
bool gainsFromReserving(int) { return false; }

#endif

}  // namespace qcow2
