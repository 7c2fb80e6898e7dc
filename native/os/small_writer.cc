// A lane of writes for each file; a thread takes a lane, does its first write, and puts it behind the others.
#include "os/small_writer.h"

#include "os/pieces.h"

namespace qcow2 {

SmallWriter::SmallWriter(void (*answer)(void* context), void* context) : answer_(answer), context_(context) {}

#ifndef _WIN32

namespace {

// As many files can be written into at once: as many threads as the pool of libuv has.
constexpr size_t kMostThreads = 4;
constexpr int kNoFile = -1;

}  // namespace

std::vector<SmallWriter::Write> SmallWriter::stop() {
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    isStopping_ = true;
    for (Sleeper* sleeper : asleep_) sleeper->wake.notify_one();
  }
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
  std::vector<Write> left = takeDone();
  for (const auto& [fd, writes] : lanes_) left.insert(left.end(), writes.begin(), writes.end());
  return left;
}

bool SmallWriter::add(const Write& write) {
  Sleeper* called = nullptr;
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (isStopping_) return false;
    const bool isNew = lanes_.find(write.fd) == lanes_.end();
    if (isNew && asleep_.empty() && threads_.size() < kMostThreads && !startThread() && threads_.empty()) {
      return false;
    }
    lanes_[write.fd].push_back(write);
    // Whoever is at it, or was called for it, goes on with this one.
    if (!isNew) return true;
    ready_.push_back(write.fd);
    if (asleep_.empty()) return true;
    called = asleep_.back();
    asleep_.pop_back();
    called->isCalled = true;
  }
  // Without the mutex, which it needs first of all. Even one that is awake by now lives as long as this writer.
  called->wake.notify_one();
  return true;
}

bool SmallWriter::startThread() {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, runThread, this) != 0) return false;
  threads_.push_back(thread);
  return true;
}

void* SmallWriter::runThread(void* self) {
  static_cast<SmallWriter*>(self)->run();
  return nullptr;
}

void SmallWriter::run() {
  Sleeper self;
  std::unique_lock<std::mutex> lock(mutex_);
  for (int fd = takeReadyFile(self, lock); fd != kNoFile; fd = takeReadyFile(self, lock)) writeNext(fd, lock);
}

// Sleeps until there is one; none once all shall end.
int SmallWriter::takeReadyFile(Sleeper& self, std::unique_lock<std::mutex>& lock) {
  while (ready_.empty() && !isStopping_) {
    self.isCalled = false;
    asleep_.push_back(&self);
    self.wake.wait(lock, [&] { return self.isCalled || isStopping_; });
  }
  if (isStopping_) return kNoFile;
  const int fd = ready_.front();
  ready_.pop_front();
  return fd;
}

void SmallWriter::writeNext(int fd, std::unique_lock<std::mutex>& lock) {
  Lane& writes = lanes_[fd];
  Write write = writes.front();
  writes.pop_front();
  lock.unlock();
  const OsResult result = writeFully(fd, write.bytes, write.position);
  write.isWritten = result.kind == OsResult::Kind::kDone;
  lock.lock();
  done_.push_back(write);
  if (writes.empty()) {
    lanes_.erase(fd);
  } else {
    ready_.push_back(fd);
  }
  if (isAnswered_) return;
  isAnswered_ = true;
  lock.unlock();
  answer_(context_);
  lock.lock();
}

#else

std::vector<SmallWriter::Write> SmallWriter::stop() { return {}; }

bool SmallWriter::add(const Write&) { return false; }

#endif

std::vector<SmallWriter::Write> SmallWriter::takeDone() {
  const std::lock_guard<std::mutex> guard(mutex_);
  isAnswered_ = false;
  std::vector<Write> taken;
  taken.swap(done_);
  return taken;
}

}  // namespace qcow2
