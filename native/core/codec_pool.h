// Codec contexts shared by the threads that code clusters, so that each is made once and used again.
#ifndef QCOW2_CORE_CODEC_POOL_H_
#define QCOW2_CORE_CODEC_POOL_H_

#include <memory>
#include <mutex>
#include <vector>

#include "core/codec.h"

namespace qcow2 {

// Holds as many contexts as were ever in use at once; the pool and its idle contexts go together.
class CodecPool {
 public:
  // A context for the calling thread, until the lease ends. The pool must outlive it.
  class Lease {
   public:
    explicit Lease(CodecPool& pool) : pool_(pool), context_(pool.take()) {}
    ~Lease() { pool_.giveBack(std::move(context_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    CodecContext& operator*() const { return *context_; }
    CodecContext* operator->() const { return context_.get(); }

   private:
    CodecPool& pool_;
    std::unique_ptr<CodecContext> context_;
  };

 private:
  std::unique_ptr<CodecContext> take();
  void giveBack(std::unique_ptr<CodecContext> context);

  std::mutex mutex_;
  std::vector<std::unique_ptr<CodecContext>> idle_;
};

}  // namespace qcow2

#endif  // QCOW2_CORE_CODEC_POOL_H_
