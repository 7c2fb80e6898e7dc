// Coding batches of clusters on the thread pool.
#ifndef QCOW2_BINDING_CODEC_WORK_H_
#define QCOW2_BINDING_CODEC_WORK_H_

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "binding/work.h"
#include "core/codec.h"
#include "core/codec_pool.h"
#include "core/span.h"

namespace qcow2::binding {

// One compressed cluster and where it goes.
struct DecodeJob {
  Bytes in;
  MutableBytes out;
};

// Decodes one cluster; resolves with its DecodeResult.
class DecodeOne : public Work {
 public:
  DecodeOne(std::shared_ptr<CodecPool> pool, Codec codec, DecodeJob job)
      : pool_(std::move(pool)), codec_(codec), job_(job) {}

 protected:
  void execute() noexcept override;
  napi_value settle(napi_env env, bool* failed) noexcept override;

 private:
  // Shared, because the environment and its pool may go while the work still runs.
  const std::shared_ptr<CodecPool> pool_;
  const Codec codec_;
  const DecodeJob job_;
  DecodeResult result_ = DecodeResult::kOk;
};

// Decodes clusters one after the other, each DecodeResult into `results`; resolves with the number that are
// not kOk.
class DecodeBatch : public Work {
 public:
  DecodeBatch(std::shared_ptr<CodecPool> pool, Codec codec, std::vector<DecodeJob> jobs, MutableBytes results)
      : pool_(std::move(pool)), codec_(codec), jobs_(std::move(jobs)), results_(results) {}

 protected:
  void execute() noexcept override;
  napi_value settle(napi_env env, bool* failed) noexcept override;

 private:
  const std::shared_ptr<CodecPool> pool_;
  const Codec codec_;
  const std::vector<DecodeJob> jobs_;
  const MutableBytes results_;
  size_t failures_ = 0;
};

struct EncodeOptions {
  Codec codec;
  int level;
  size_t cluster_size;
  // The longest encoding worth having, bytes.
  size_t limit;
};

// Encodes clusters into `out`, one behind the other without gaps, each length into `lengths` (0: does not fit
// the limit, nothing written); resolves with the bytes written. `out` has room for the limit of each.
class EncodeBatch : public Work {
 public:
  EncodeBatch(std::shared_ptr<CodecPool> pool, EncodeOptions options, Bytes in, MutableBytes out,
              Span<double> lengths)
      : pool_(std::move(pool)), options_(options), in_(in), out_(out), lengths_(lengths) {}

 protected:
  void execute() noexcept override;
  napi_value settle(napi_env env, bool* failed) noexcept override;

 private:
  const std::shared_ptr<CodecPool> pool_;
  const EncodeOptions options_;
  const Bytes in_;
  const MutableBytes out_;
  const Span<double> lengths_;
  size_t written_ = 0;
  bool no_memory_ = false;
};

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_CODEC_WORK_H_
