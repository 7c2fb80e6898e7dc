// libFuzzer: changes to any L2 table do what they say to the range they name and nothing to the rest.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "core/l2_set.h"
#include "fuzz/expand.h"

namespace {

using namespace qcow2;
using Pieces = std::vector<std::vector<fuzz::Piece>>;

struct Table {
  L2Format format;
  std::vector<unsigned char> bytes;

  size_t entries() const { return bytes.size() / format.entrySize(); }
  MutableBytes view() { return {bytes.data(), bytes.size()}; }
  Pieces expand() const {
    Pieces all;
    for (size_t index = 0; index < entries(); ++index) {
      all.push_back(fuzz::expandEntry(format, {bytes.data(), bytes.size()}, index));
    }
    return all;
  }
};

GuestRange anyRange(FuzzedDataProvider& input, const Table& table) {
  const unsigned bits = table.format.subclusterBits();
  const uint64_t units = (uint64_t{table.entries()} << table.format.clusterBits) >> bits;
  const uint64_t start = input.ConsumeIntegralInRange<uint64_t>(0, units - 1);
  const uint64_t length = input.ConsumeIntegralInRange<uint64_t>(1, units - start);
  return {start << bits, length << bits};
}

// Whether a changed piece is what was asked for; `host` is where data was put.
using Wanted = bool (*)(const fuzz::Piece& piece, uint64_t host);

bool isData(const fuzz::Piece& piece, uint64_t host) {
  return piece.kind == RunKind::data && piece.host == host;
}
bool isZero(const fuzz::Piece& piece, uint64_t) {
  return piece.kind == RunKind::zero || piece.kind == RunKind::zeroAllocated;
}
bool isUnallocated(const fuzz::Piece& piece, uint64_t) {
  return piece.kind == RunKind::unallocated || piece.kind == RunKind::unallocatedInCluster;
}

// What a piece of the entry, but outside the range, may have become.
bool isKept(const fuzz::Piece& before, const fuzz::Piece& after, bool moves) {
  if (before.kind == RunKind::compressed) return isUnallocated(after, 0);
  const auto reads = [](RunKind kind) {
    if (kind == RunKind::zeroAllocated) return RunKind::zero;
    return kind == RunKind::unallocatedInCluster ? RunKind::unallocated : kind;
  };
  if (reads(before.kind) != reads(after.kind)) return false;
  return moves || before.kind != RunKind::data || before.host == after.host;
}

void checkChange(const Table& table, const Pieces& before, const Pieces& after, GuestRange range,
                 uint64_t host, Wanted wanted, bool moves) {
  const unsigned bits = table.format.subclusterBits();
  const uint64_t perEntry = table.format.extended ? kSubclusters : 1;
  const uint64_t first = range.start >> bits;
  const uint64_t end = (range.start + range.length) >> bits;
  for (uint64_t index = 0; index < table.entries(); ++index) {
    const bool touched = index * perEntry < end && first < (index + 1) * perEntry;
    if (!touched && !(before[index] == after[index])) std::abort();
    // A part of a damaged entry cannot be mended; callers refuse to change those.
    if (!touched || before[index][0].kind == RunKind::invalid) continue;
    for (uint64_t at = 0; at < perEntry; ++at) {
      const uint64_t unit = index * perEntry + at;
      const fuzz::Piece& piece = after[index][at];
      const uint64_t base = range.start >> table.format.clusterBits << table.format.clusterBits;
      const bool fine = unit >= first && unit < end ? wanted(piece, host + (unit << bits) - base)
                                                    : isKept(before[index][at], piece, moves);
      if (!fine) std::abort();
    }
  }
}

void setCompressed(FuzzedDataProvider& input, Table& table, uint64_t host) {
  const size_t index = input.ConsumeIntegralInRange<size_t>(0, table.entries() - 1);
  const uint64_t start = host + input.ConsumeIntegralInRange<uint64_t>(0, table.format.clusterSize() - 1);
  if (start >> std::min(table.format.compressedOffsetBits(), 56u) != 0) return;
  const uint64_t most = maxCompressedLength(table.format, start);
  const uint64_t length = input.ConsumeIntegralInRange<uint64_t>(1, most);
  l2SetCompressed(table.format, table.view(), index, start, length);
  if (table.format.externalData) return;
  const fuzz::Piece piece = table.expand()[index][0];
  const bool covers = piece.aux >= length && piece.aux < length + kSector;
  if (piece.kind != RunKind::compressed || piece.host != start || !covers) std::abort();
}

void changeOnce(FuzzedDataProvider& input, Table& table) {
  const GuestRange range = anyRange(input, table);
  const Pieces before = table.expand();
  const uint64_t mostClusters = (kHostEnd >> table.format.clusterBits) - table.entries() - 1;
  const uint64_t host = input.ConsumeIntegralInRange<uint64_t>(1, mostClusters) << table.format.clusterBits;
  switch (input.ConsumeIntegralInRange<int>(0, 3)) {
    case 0:
      l2SetData(table.format, table.view(), range, host);
      return checkChange(table, before, table.expand(), range, host, isData, true);
    case 1:
      // Without zero flags, callers make zeros in another way.
      if (!table.format.zeroFlag) return;
      l2SetZero(table.format, table.view(), range, input.ConsumeBool());
      return checkChange(table, before, table.expand(), range, host, isZero, false);
    case 2:
      l2SetUnallocated(table.format, table.view(), range);
      return checkChange(table, before, table.expand(), range, host, isUnallocated, false);
    default:
      return setCompressed(input, table, host);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto bits = input.ConsumeIntegral<uint8_t>();
  Table table{fuzz::formatFrom(bits, input.ConsumeIntegral<uint8_t>()), {}};
  const size_t entries = input.ConsumeIntegralInRange<size_t>(1, 16);
  table.bytes = input.ConsumeBytes<unsigned char>(entries * table.format.entrySize());
  table.bytes.resize(entries * table.format.entrySize());
  for (int changes = 0; changes < 16 && input.remaining_bytes() > 0; ++changes) changeOnce(input, table);
  return 0;
}
