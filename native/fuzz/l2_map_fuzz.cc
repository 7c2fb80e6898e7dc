// libFuzzer: any bytes as an L2 table give merged runs that say the same as each entry by itself, and say it
// whatever room there is for them.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "fuzz/expand.h"

namespace {

using namespace qcow2;

// Undoes the merging: pieces of a subcluster each.
void expandRun(const L2Format& format, const double* run, std::vector<fuzz::Piece>& pieces) {
  const auto kind = static_cast<RunKind>(run[0]);
  const auto length = static_cast<uint64_t>(run[1]);
  const uint64_t unit = uint64_t{1} << format.subclusterBits();
  if (length == 0 || length % unit != 0) std::abort();
  for (uint64_t at = 0; at < length; at += unit) {
    const uint64_t host = static_cast<uint64_t>(run[2]) + (fuzz::hasPlace(kind) ? at : 0);
    const bool told = kind == RunKind::compressed || fuzz::hasPlace(kind);
    const bool copied = fuzz::hasPlace(kind) && format.ignoreCopied;
    pieces.push_back({kind, told ? host : 0, copied ? 0 : static_cast<uint64_t>(run[3])});
  }
}

std::vector<fuzz::Piece> mapAll(const L2Format& format, Bytes table, size_t entries, size_t room) {
  std::vector<fuzz::Piece> pieces;
  const size_t perEntry = format.extended ? kSubclusters : 1;
  for (size_t done = 0; done < entries;) {
    std::vector<double> out(room * kRunStride);
    const size_t runs = mapL2(format, table, done, entries - done, {out.data(), out.size()});
    if (runs == 0 || runs > room) std::abort();
    for (size_t run = 0; run < runs; ++run) expandRun(format, out.data() + run * kRunStride, pieces);
    // It stops between two entries.
    if (pieces.size() % perEntry != 0) std::abort();
    done = pieces.size() / perEntry;
  }
  return pieces;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const L2Format format = fuzz::formatFrom(data[0], data[1]);
  const size_t entries = (size - 3) / format.entrySize();
  if (entries == 0) return 0;
  // Memory of exactly the table's size lets AddressSanitizer see a read past it.
  const std::vector<unsigned char> table(data + 3, data + 3 + entries * format.entrySize());
  const Bytes bytes{table.data(), table.size()};

  std::vector<fuzz::Piece> expected;
  for (size_t index = 0; index < entries; ++index) {
    for (fuzz::Piece piece : fuzz::expandEntry(format, bytes, index)) {
      // Runs are told in doubles. Past 2^53, where no file reaches, they cannot name each byte.
      piece.host = static_cast<uint64_t>(static_cast<double>(piece.host));
      expected.push_back(piece);
    }
  }
  const size_t tight = maxRunsPerEntry(format) + data[2] % 8;
  if (!(mapAll(format, bytes, entries, entries * maxRunsPerEntry(format)) == expected)) std::abort();
  if (!(mapAll(format, bytes, entries, tight) == expected)) std::abort();
  return 0;
}
