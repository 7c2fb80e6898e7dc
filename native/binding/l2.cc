// L2 tables for JavaScript: mapping a table and changing its entries.
#include <algorithm>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/l2_format.h"
#include "binding/reference_tables_work.h"
#include "core/extent_rows.h"
#include "core/l2_map.h"
#include "core/l2_set.h"

namespace qcow2::binding {
namespace {

struct RangeArguments {
  L2Format format;
  GuestRange range;
  MutableBytes table;
};

// The arguments that the functions for ranges share: table, flags, clusterBits, start, length. Takes the
// table last, so scalars at other positions must have been converted before.
RangeArguments takeRange(Arguments& args) {
  const L2Format format = takeL2Format(args, 1, 2);
  const uint64_t start = args.natural(3, "start");
  const uint64_t length = args.natural(4, "length");
  const MutableBytes table = takeL2Table(args, 0, format);
  if (args.failed()) return {format, {0, 0}, {}};
  const uint64_t unit = uint64_t{1} << format.subclusterBits();
  const std::string multiple = "a multiple of " + std::to_string(unit) + " bytes";
  args.requireRange(start % unit == 0, "start", multiple);
  args.requireRange(length % unit == 0, "length", multiple);
  const uint64_t covered = table.size() / format.entrySize() * format.clusterSize();
  args.requireRange(start <= covered, "start", "inside the table");
  args.requireRange(start <= covered && length <= covered - start, "length",
                    "such that the range ends inside the table");
  return {format, {start, length}, table};
}

struct EntriesArguments {
  L2Format format;
  Bytes table;
  size_t first;
  size_t count;
  Span<double> out;
};

// The arguments that the functions for runs of entries share: table, flags, clusterBits, first, count, and at
// `outIndex` room for what one entry may give, `stride` numbers a run. Takes the buffers last, as takeRange.
EntriesArguments takeEntries(Arguments& args, size_t outIndex, size_t stride) {
  const L2Format format = takeL2Format(args, 1, 2);
  const uint64_t first = args.natural(3, "first");
  const uint64_t count = args.natural(4, "count");
  const Bytes table = takeL2Table(args, 0, format);
  const Span<double> out = args.doubles(outIndex, "out");
  if (args.failed()) return {format, {}, 0, 0, {}};
  const uint64_t entries = table.size() / format.entrySize();
  args.requireRange(first <= entries, "first", "inside the table");
  args.requireRange(first <= entries && count <= entries - first, "count",
                    "such that the entries end inside the table");
  const size_t needed = maxRunsPerEntry(format) * stride;
  args.requireRange(out.size() >= needed, "out.length", "at least " + std::to_string(needed));
  return {format, table, static_cast<size_t>(first), static_cast<size_t>(count), out};
}

napi_value mapTable(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto [format, table, first, count, out] = takeEntries(args, 5, kRunStride);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(mapL2(format, table, first, count, out)));
}

napi_value extentRows(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  // A table covers less than 2^40 bytes, so that all ends are safe integers.
  const uint64_t start = args.natural(5, "start", kMaxSafeInteger - (uint64_t{1} << 40));
  const bool placed = args.boolean(6, "placed");
  const auto [format, table, first, count, out] = takeEntries(args, 7, kExtentStride);
  if (args.failed()) return nullptr;
  return number(env, static_cast<double>(mapExtents(format, table, first, count, start, placed, out)));
}

napi_value setData(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t host = args.natural(5, "host");
  const auto [format, range, table] = takeRange(args);
  if (args.failed()) return nullptr;
  args.requireRange(host % format.clusterSize() == 0, "host", "a multiple of the cluster size");
  args.requireRange(host != 0 || format.externalData, "host",
                    "above 0 in an image without an external data file");
  // The table covers less than 2^40 bytes, so this cannot overflow.
  const uint64_t end = (range.start & (format.clusterSize() - 1)) + range.length + host;
  args.requireRange(end <= kHostEnd, "host", "such that the data ends at 2^56 or below");
  if (args.failed()) return nullptr;
  l2SetData(format, table, range, host);
  return undefined(env);
}

napi_value setZero(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const bool keepHost = args.boolean(5, "keepHost");
  const auto [format, range, table] = takeRange(args);
  args.requireValue(format.extended || format.zeroFlag, "flags",
                    "must allow zero clusters: version 2 has none");
  if (args.failed()) return nullptr;
  l2SetZero(format, table, range, keepHost);
  return undefined(env);
}

napi_value setUnallocated(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const auto [format, range, table] = takeRange(args);
  if (args.failed()) return nullptr;
  l2SetUnallocated(format, table, range);
  return undefined(env);
}

napi_value setCompressed(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const L2Format format = takeL2Format(args, 1, 2);
  const uint64_t index = args.natural(3, "index");
  const uint64_t host = args.natural(4, "host");
  const uint64_t length = args.natural(5, "length");
  const MutableBytes table = takeL2Table(args, 0, format);
  if (args.failed()) return nullptr;
  args.requireValue(!format.externalData, "flags",
                    "must not be externalData: nothing is compressed in data files");
  args.requireRange(index < table.size() / format.entrySize(), "index", "inside the table");
  const uint64_t addressable = std::min(kHostEnd, uint64_t{1} << format.compressedOffsetBits());
  args.requireRange(host != 0 && host < addressable, "host", "from 1 to " + std::to_string(addressable - 1));
  const uint64_t longest = maxCompressedLength(format, host);
  args.requireRange(length >= 1 && length <= longest, "length", "from 1 to " + std::to_string(longest));
  if (args.failed()) return nullptr;
  l2SetCompressed(format, table, static_cast<size_t>(index), host, length);
  return undefined(env);
}

napi_value clearFlags(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t tableBytes = args.natural(1, "tableBytes");
  const uint64_t entrySize = args.natural(2, "entrySize", 16);
  const MutableBytes tables = args.bytes(0, "tables");
  const Span<double> changed = args.doubles(3, "changed");
  args.requireRange(entrySize == 8 || entrySize == 16, "entrySize", "8 or 16");
  if (args.failed()) return nullptr;
  args.requireRange(tableBytes != 0 && tableBytes % entrySize == 0, "tableBytes", "whole entries");
  if (args.failed()) return nullptr;
  args.requireRange(tables.size() % tableBytes == 0, "tables.length", "a multiple of tableBytes");
  const uint64_t count = tables.size() / tableBytes;
  args.requireRange(changed.size() / kChangedStride >= count, "changed.length",
                    "at least " + std::to_string(kChangedStride) + " for each table");
  if (args.failed()) return nullptr;
  for (size_t index = 0; index < count; ++index) {
    const size_t bytes = static_cast<size_t>(tableBytes);
    const MutableBytes table = tables.subspan(index * bytes, bytes);
    writeChanged(changed, index, clearCopied(table, static_cast<size_t>(entrySize)));
  }
  return undefined(env);
}

}  // namespace

bool initL2(napi_env env, napi_value exports) {
  return exportFunctions(env, exports,
                         {
                             {"mapL2", mapTable},
                             {"extentRows", extentRows},
                             {"l2SetData", setData},
                             {"l2SetZero", setZero},
                             {"l2SetUnallocated", setUnallocated},
                             {"l2SetCompressed", setCompressed},
                             {"clearCopied", clearFlags},
                         });
}

}  // namespace qcow2::binding
