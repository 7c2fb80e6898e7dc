// poll(2), so that no thread is stuck in a read(2) that nothing ends, and a pipe as large as the system gives one.
#include "os/pipe.h"

#ifndef _WIN32
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#endif

namespace qcow2 {

#ifndef _WIN32

namespace {

// A writer at work is back before that.
constexpr int kIdleMilliseconds = 10;
// Threads of the pool are few, and a process that ends waits for them.
constexpr std::chrono::milliseconds kMostAtOnce(50);

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

OsResult readPipe(int fd, MutableBytes buffer, bool& ended) {
  enlarge(fd);
  const auto until = std::chrono::steady_clock::now() + kMostAtOnce;
  size_t done = 0;
  while (done < buffer.size() && std::chrono::steady_clock::now() < until) {
    pollfd one = {fd, POLLIN, 0};
    const int ready = poll(&one, 1, kIdleMilliseconds);
    if (ready == 0) break;
    if (ready < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return OsResult::failed("poll", errno);
    }
    const ssize_t got = read(fd, buffer.data() + done, buffer.size() - done);
    if (got == 0) {
      ended = true;
      break;
    }
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (errno != EINTR && errno != EAGAIN) {
      return OsResult::failed("read", errno);
    }
  }
  return OsResult::done(static_cast<int64_t>(done));
}

#else

OsResult readPipe(int, MutableBytes, bool&) { return OsResult::unsupported(); }

#endif

}  // namespace qcow2
