// poll(2), so that no thread is stuck in a read(2) that nothing ends, and a pipe as large as the system gives one.
#include "os/pipe.h"

#ifndef _WIN32
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
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

// Another reader may take what poll(2) told of, and a plain read would then wait for as long as the writer is silent. O_NONBLOCK
// on the descriptor would be everybody's who shares it, and RWF_NOWAIT is not known for FIFOs: so the pipe is opened once more.
class OwnPipe {
 public:
  explicit OwnPipe(int fd) {
#ifdef __linux__
    struct stat about {};
    if (fstat(fd, &about) != 0 || !S_ISFIFO(about.st_mode)) return;
    // The end of a writer is no more to be read than before.
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY) return;
    char path[32];
    static_cast<void>(snprintf(path, sizeof path, "/proc/self/fd/%d", fd));
    fd_ = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
#else
    static_cast<void>(fd);
#endif
  }
  ~OwnPipe() {
    if (fd_ >= 0) close(fd_);
  }
  OwnPipe(const OwnPipe&) = delete;
  OwnPipe& operator=(const OwnPipe&) = delete;

  // What is read from: the caller's own where there is no other.
  int orElse(int fd) const { return fd_ >= 0 ? fd_ : fd; }

 private:
  int fd_ = -1;
};

}  // namespace

OsResult readPipe(int fd, MutableBytes buffer, bool& ended) {
  enlarge(fd);
  const OwnPipe own(fd);
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
    const ssize_t got = read(own.orElse(fd), buffer.data() + done, buffer.size() - done);
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
