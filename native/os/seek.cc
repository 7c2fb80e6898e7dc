// lseek(2) with SEEK_DATA and SEEK_HOLE.
#include "os/seek.h"

#ifdef __linux__
#include <unistd.h>

#include <cerrno>
#endif

namespace qcow2 {

#ifdef __linux__

namespace {

OsResult seek(int fd, int64_t offset, int whence) {
  const int64_t found = lseek(fd, offset, whence);
  if (found >= 0) return OsResult::done(found);
  if (errno == ENXIO) return OsResult::done(kSeekNothing);
  // The arguments are in range, so EINVAL is a file system or device that does not know these two.
  if (errno == EINVAL) return OsResult::unsupported();
  return OsResult::failed("lseek", errno);
}

}  // namespace

OsResult seekData(int fd, int64_t offset) { return seek(fd, offset, SEEK_DATA); }
OsResult seekHole(int fd, int64_t offset) { return seek(fd, offset, SEEK_HOLE); }

#else

OsResult seekData(int, int64_t) { return OsResult::unsupported(); }
OsResult seekHole(int, int64_t) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
