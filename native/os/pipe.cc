// poll(2), so that nobody is stuck in a read(2) that nothing ends, and a pipe as large as the system gives one.
#include "os/pipe.h"

#ifndef _WIN32
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#endif

namespace qcow2 {

#ifndef _WIN32

namespace {

constexpr int kLookMilliseconds = 100;

// A writer that fills 64 KiB and then waits for its reader costs more than all the copying. What the system refuses
// is left as it is.
void enlarge(int fd) {
#ifdef F_SETPIPE_SZ
  constexpr int kPipeBytes = 1024 * 1024;
  const int size = fcntl(fd, F_GETPIPE_SZ);
  if (size > 0 && size < kPipeBytes) static_cast<void>(fcntl(fd, F_SETPIPE_SZ, kPipeBytes));
#else
  static_cast<void>(fd);
#endif
}

}  // namespace

OsResult readPipe(int fd, MutableBytes buffer, const volatile unsigned char* stop) {
  enlarge(fd);
  size_t done = 0;
  while (done < buffer.size() && *stop == 0) {
    pollfd one = {fd, POLLIN, 0};
    const int ready = poll(&one, 1, kLookMilliseconds);
    if (ready == 0) continue;
    if (ready < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return OsResult::failed("poll", errno);
    }
    const ssize_t got = read(fd, buffer.data() + done, buffer.size() - done);
    if (got == 0) break;
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (errno != EINTR && errno != EAGAIN) {
      return OsResult::failed("read", errno);
    }
  }
  return OsResult::done(static_cast<int64_t>(done));
}

#else

OsResult readPipe(int, MutableBytes, const volatile unsigned char*) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
