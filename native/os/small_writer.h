// Small positional writes on threads of their own, which sleep while there is nothing to write.
#ifndef QCOW2_OS_SMALL_WRITER_H_
#define QCOW2_OS_SMALL_WRITER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/span.h"

#ifndef _WIN32
#include <pthread.h>
#endif

namespace qcow2 {

class SmallWriter {
 public:
  struct Write {
    int fd;
    int64_t position;
    // Stay as they are until it is done.
    Bytes bytes;
    // Whose it is.
    void* owner;
    // Afterwards: whether all of it was written.
    bool isWritten;
  };

  // `answer` is called with `context`, on any thread, when something is done after takeDone() has taken all that was.
  SmallWriter(void (*answer)(void* context), void* context);
  // After stop().
  ~SmallWriter() = default;
  SmallWriter(const SmallWriter&) = delete;
  SmallWriter& operator=(const SmallWriter&) = delete;

  // Takes a write; false, and nothing taken, where there are no threads to be had. Those into the same file are done
  // one after the other, in order, as the system would not do them side by side; no file waits for another one unless
  // all threads are busy.
  bool add(const Write& write);

  // What is done, written or not.
  std::vector<Write> takeDone();

  // Waits for what threads are just writing, and ends them; add() takes nothing after that. Returns all writes that were
  // not taken before, those among them that had not begun and will not be done.
  std::vector<Write> stop();

 private:
  // The writes into one file that wait.
  using Lane = std::deque<Write>;
  // A thread, when it has nothing to do; it is there as long as the thread.
  struct Sleeper {
    std::condition_variable wake;
    bool isCalled = false;
  };

  static void* runThread(void* self);
  void run();
  // With the mutex held:
  bool startThread();
  int takeReadyFile(Sleeper& self, std::unique_lock<std::mutex>& lock);
  void writeNext(int fd, std::unique_lock<std::mutex>& lock);

  void (*const answer_)(void* context);
  void* const context_;
  std::mutex mutex_;
  std::unordered_map<int, Lane> lanes_;
  // Files with writes that no thread is at.
  std::deque<int> ready_;
  // The one that fell asleep last is called first: it is the one still in the caches, on a processor of its own.
  std::vector<Sleeper*> asleep_;
  std::vector<Write> done_;
  bool isAnswered_ = false;
  bool isStopping_ = false;
#ifndef _WIN32
  std::vector<pthread_t> threads_;
#endif
};

}  // namespace qcow2

#endif  // QCOW2_OS_SMALL_WRITER_H_
