// preadv2(2) with RWF_NOWAIT.
#include "os/read_cached.h"

#ifdef __linux__
#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace qcow2 {

#if defined(__linux__) && defined(RWF_NOWAIT)

namespace {

bool isInMemory(int fd) {
  struct statfs kind{};
  return fstatfs(fd, &kind) == 0 && kind.f_type == TMPFS_MAGIC;
}

}  // namespace

OsResult readCached(int fd, int64_t offset, MutableBytes buffer) {
  iovec part{buffer.data(), buffer.size()};
  ssize_t got = preadv2(fd, &part, 1, offset, RWF_NOWAIT);
  // tmpfs does not know the flag, and has no device to wait for.
  if (got < 0 && errno == EOPNOTSUPP && isInMemory(fd)) got = pread(fd, buffer.data(), buffer.size(), offset);
  if (got >= 0) return OsResult::done(static_cast<size_t>(got) == buffer.size() ? 1 : 0);
  if (errno == EAGAIN || errno == EINTR) return OsResult::done(0);
  // Other file systems without it say EOPNOTSUPP, kernels without it ENOSYS or EINVAL.
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return OsResult::unsupported();
  return OsResult::failed("preadv2", errno);
}

#else

OsResult readCached(int, int64_t, MutableBytes) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
