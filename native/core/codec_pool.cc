// A stack of idle contexts behind a mutex: the one used last is the one still in the caches.
#include "core/codec_pool.h"

#include <utility>

namespace qcow2 {

std::unique_ptr<CodecContext> CodecPool::take() {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (idle_.empty()) return std::make_unique<CodecContext>();
  std::unique_ptr<CodecContext> context = std::move(idle_.back());
  idle_.pop_back();
  return context;
}

void CodecPool::giveBack(std::unique_ptr<CodecContext> context) {
  const std::lock_guard<std::mutex> guard(mutex_);
  idle_.push_back(std::move(context));
}

}  // namespace qcow2
