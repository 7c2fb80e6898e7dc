// preadv2(2) with RWF_NOWAIT.
#include "os/read_cached.h"

#ifdef __linux__
#include <sys/uio.h>

#include <cerrno>
#endif

namespace qcow2 {

#if defined(__linux__) && defined(RWF_NOWAIT)

OsResult readCached(int fd, int64_t offset, MutableBytes buffer) {
  iovec part{buffer.data(), buffer.size()};
  const ssize_t got = preadv2(fd, &part, 1, offset, RWF_NOWAIT);
  if (got >= 0) return OsResult::done(static_cast<size_t>(got) == buffer.size() ? 1 : 0);
  if (errno == EAGAIN || errno == EINTR) return OsResult::done(0);
  // File systems without it say EOPNOTSUPP, kernels without it ENOSYS or EINVAL.
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return OsResult::unsupported();
  return OsResult::failed("preadv2", errno);
}

#else

OsResult readCached(int, int64_t, MutableBytes) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
