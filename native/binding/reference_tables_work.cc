// Counting many L2 tables and correcting their COPIED flags on the thread pool, and what that shares with the rest of class ReferenceCounts.
#include "binding/reference_tables_work.h"

#include <utility>

#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

constexpr const char* kLimitCode = "ERR_QCOW2_LIMIT";
constexpr const char* kLimitMessage =
    "Counting the references of this image takes more memory than its limit allows; raise the limit";

}  // namespace

napi_value throwLimit(napi_env env) {
  napi_throw_error(env, kLimitCode, kLimitMessage);
  return nullptr;
}

napi_value limitError(napi_env env) {
  napi_value code = nullptr;
  napi_value message = nullptr;
  napi_value error = nullptr;
  napi_create_string_utf8(env, kLimitCode, NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, kLimitMessage, NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, code, message, &error);
  return error;
}

napi_value summaryObject(napi_env env, const L2Summary& summary) {
  const struct {
    const char* name;
    uint64_t value;
  } fields[] = {
      {"allocated", summary.allocated},   {"fragmented", summary.fragmented},
      {"compressed", summary.compressed}, {"zero", summary.zero},
      {"problems", summary.problems},     {"wrongIfUnshared", summary.wrongIfUnshared},
  };
  napi_value object;
  if (napi_create_object(env, &object) != napi_ok) return nullptr;
  for (const auto& field : fields) {
    const napi_value value = number(env, static_cast<double>(field.value));
    if (napi_set_named_property(env, object, field.name, value) != napi_ok) return nullptr;
  }
  return object;
}

TablesWork::TablesWork(std::shared_ptr<CountsHandle> handle, Account account, const L2Format& format,
                       Bytes tables, Span<const uint32_t> times, Span<double> problems)
    : handle_(std::move(handle)),
      account_(account),
      format_(format),
      tables_(tables),
      times_(times),
      problems_(problems) {
  handle_->busy = true;
}

TablesWork::~TablesWork() { handle_->busy = false; }

void TablesWork::execute() noexcept {
  const size_t tableBytes = static_cast<size_t>(format_.clusterSize());
  for (size_t index = 0; index < times_.size() && counted_ == Counted::all; ++index) {
    if (times_[index] == 0) continue;
    const Bytes table = tables_.subspan(index * tableBytes, tableBytes);
    counted_ = addL2Table(*handle_->counts, format_, table, index, times_[index], summary_, problems_);
  }
}

napi_value TablesWork::settle(napi_env env, bool* failed) noexcept {
  account_(env, *handle_);
  *failed = counted_ == Counted::limitPassed;
  return *failed ? limitError(env) : summaryObject(env, summary_);
}

void writeChanged(Span<double> out, size_t table, const ChangedEntries& changed) {
  const Span<double> slot = out.subspan(table * kChangedStride, kChangedStride);
  slot[0] = static_cast<double>(changed.start);
  slot[1] = static_cast<double>(changed.end);
}

CopiedWork::CopiedWork(std::shared_ptr<CountsHandle> handle, const L2Format& format, MutableBytes tables,
                       Span<const uint32_t> times, bool toSet, Span<double> changed)
    : handle_(std::move(handle)),
      format_(format),
      tables_(tables),
      times_(times),
      toSet_(toSet),
      changed_(changed) {
  handle_->busy = true;
}

CopiedWork::~CopiedWork() { handle_->busy = false; }

void CopiedWork::execute() noexcept {
  const size_t tableBytes = static_cast<size_t>(format_.clusterSize());
  for (size_t index = 0; index < times_.size(); ++index) {
    ChangedEntries changed;
    if (times_[index] != 0) {
      const MutableBytes table = tables_.subspan(index * tableBytes, tableBytes);
      changed = correctCopied(*handle_->counts, format_, table, toSet_);
    }
    writeChanged(changed_, index, changed);
    corrected_ += static_cast<double>(changed.count) * times_[index];
  }
}

napi_value CopiedWork::settle(napi_env env, bool* failed) noexcept {
  *failed = false;
  return number(env, corrected_);
}

}  // namespace qcow2::binding
