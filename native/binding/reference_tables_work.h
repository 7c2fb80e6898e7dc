// Counting many L2 tables and correcting their COPIED flags on the thread pool, and what that shares with the rest of class ReferenceCounts.
#ifndef QCOW2_BINDING_REFERENCE_TABLES_WORK_H_
#define QCOW2_BINDING_REFERENCE_TABLES_WORK_H_

#include <node_api.h>

#include <memory>

#include "binding/work.h"
#include "core/reference_tables.h"

namespace qcow2::binding {

// What an object of class ReferenceCounts holds; shared with the work that uses it.
struct CountsHandle {
  std::unique_ptr<ReferenceCounts> counts;
  // While a thread of the pool changes the counts nobody else may look at them.
  bool busy = false;
  // Bytes told to the garbage collector.
  int64_t reported = 0;
};

// Throws, or makes, the error of a passed byte limit.
napi_value throwLimit(napi_env env);
napi_value limitError(napi_env env);

// The object L2Summary of lib/native/reference-counts.ts.
napi_value summaryObject(napi_env env, const L2Summary& summary);

class TablesWork : public Work {
 public:
  using Account = void (*)(napi_env env, CountsHandle& handle);

  // Table number i, one cluster long, is counted times[i] times.
  TablesWork(std::shared_ptr<CountsHandle> handle, Account account, const L2Format& format, Bytes tables,
             Span<const uint32_t> times, Span<double> problems);
  ~TablesWork() override;

 protected:
  void execute() noexcept override;
  napi_value settle(napi_env env, bool* failed) noexcept override;

 private:
  std::shared_ptr<CountsHandle> handle_;
  Account account_;
  L2Format format_;
  Bytes tables_;
  Span<const uint32_t> times_;
  Span<double> problems_;
  L2Summary summary_;
  Counted counted_ = Counted::all;
};

// Numbers per table: the bytes [start, end) of it that hold what was changed, alike when nothing was.
constexpr size_t kChangedStride = 2;
void writeChanged(Span<double> out, size_t table, const ChangedEntries& changed);

class CopiedWork : public Work {
 public:
  // Corrects the flags of the tables for which `times` is not 0.
  CopiedWork(std::shared_ptr<CountsHandle> handle, const L2Format& format, MutableBytes tables,
             Span<const uint32_t> times, bool toSet, Span<double> changed);
  ~CopiedWork() override;

 protected:
  void execute() noexcept override;
  napi_value settle(napi_env env, bool* failed) noexcept override;

 private:
  std::shared_ptr<CountsHandle> handle_;
  L2Format format_;
  MutableBytes tables_;
  Span<const uint32_t> times_;
  bool toSet_;
  Span<double> changed_;
  double corrected_ = 0;
};

}  // namespace qcow2::binding

#endif  // QCOW2_BINDING_REFERENCE_TABLES_WORK_H_
