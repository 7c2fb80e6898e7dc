// copy_file_range(2) until everything is copied.
#include "os/copy.h"

#ifdef __linux__
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#endif

namespace qcow2 {

#ifdef __linux__

namespace {

// One call's share: keeps the count within what the kernel takes in one go.
constexpr int64_t kStep = int64_t{1} << 30;

bool meansUnsupported(int error) {
  // EXDEV: other file systems before Linux 5.3 and after 5.18; EINVAL: not two regular files, or overlapping
  // ranges.
  return error == EXDEV || error == EINVAL || error == EOPNOTSUPP || error == ENOSYS;
}

}  // namespace

OsResult copyRange(int from, int64_t from_offset, int to, int64_t to_offset, int64_t length) {
  off64_t in = from_offset;
  off64_t out = to_offset;
  int64_t copied = 0;
  while (copied < length) {
    const auto want = static_cast<size_t>(std::min(length - copied, kStep));
    const ssize_t got = copy_file_range(from, &in, to, &out, want, 0);
    if (got == 0) break;
    if (got > 0) {
      copied += got;
    } else if (errno != EINTR) {
      if (copied == 0 && meansUnsupported(errno)) return OsResult::unsupported();
      return OsResult::failed("copy_file_range", errno);
    }
  }
  return OsResult::done(copied);
}

#else

OsResult copyRange(int, int64_t, int, int64_t, int64_t) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
