// Adding up what L2 tables say by equal parts of the disk and of the file, for a picture of the image.
#include "core/l2_picture.h"

#include <algorithm>

#include "core/l2_map.h"

namespace qcow2 {
namespace {

// Runs that are mapped at once; more than one entry ever has.
constexpr size_t kRuns = 64;
constexpr uint64_t kSectorSize = 512;

struct Piece {
  RunKind kind;
  uint64_t start;
  uint64_t length;
  uint64_t host;
  uint64_t hostLength;
};

size_t partOf(uint64_t offset, uint64_t part, size_t parts) {
  return static_cast<size_t>(std::min<uint64_t>(offset / part, parts - 1));
}

// Bytes from `offset` to where the next part begins; the last part never ends.
uint64_t restOfPart(uint64_t offset, uint64_t part, size_t parts) {
  const size_t index = partOf(offset, part, parts);
  return index + 1 == parts ? ~uint64_t{0} : (index + 1) * part - offset;
}

size_t hostColumn(RunKind kind) {
  return kind == RunKind::data ? 0 : kind == RunKind::compressed ? 1 : 2;
}

bool isStored(RunKind kind) {
  return kind == RunKind::data || kind == RunKind::compressed || kind == RunKind::zeroAllocated;
}

// Compressed data is told to end with its last sector, in which the next compressed cluster may begin.
bool continues(const Piece& piece, uint64_t expected) {
  if (piece.kind != RunKind::compressed) return piece.host == expected;
  return piece.host <= expected && expected - piece.host < kSectorSize;
}

void addStored(const Piece& piece, const PictureGrid& grid) {
  const size_t guestParts = grid.guest.size() / kGuestPartStride;
  const size_t hostParts = grid.host.size() / kHostPartStride;
  const size_t row = partOf(piece.start, grid.guestPart, guestParts) * grid.side / guestParts;
  uint64_t host = piece.host;
  for (uint64_t left = piece.hostLength; left > 0;) {
    const uint64_t length = std::min(left, restOfPart(host, grid.hostPart, hostParts));
    const size_t part = partOf(host, grid.hostPart, hostParts);
    grid.host[part * kHostPartStride + hostColumn(piece.kind)] += static_cast<double>(length);
    grid.links[row * grid.side + part * grid.side / hostParts] += static_cast<double>(length);
    host += length;
    left -= length;
  }
}

void addPiece(Piece piece, const PictureGrid& grid) {
  const size_t parts = grid.guest.size() / kGuestPartStride;
  const uint64_t end = piece.start + piece.length;
  while (piece.start < end) {
    Piece slice = piece;
    slice.length = std::min(end - piece.start, restOfPart(piece.start, grid.guestPart, parts));
    const size_t part = partOf(slice.start, grid.guestPart, parts);
    grid.guest[part * kGuestPartStride + static_cast<size_t>(piece.kind)] += static_cast<double>(slice.length);
    if (isStored(piece.kind)) {
      if (piece.kind != RunKind::compressed) slice.hostLength = slice.length;
      addStored(slice, grid);
      // A compressed cluster counts once, where it begins.
      piece.hostLength = 0;
    }
    piece.start += slice.length;
    piece.host += piece.kind == RunKind::compressed ? 0 : slice.length;
  }
}

}  // namespace

uint64_t addToPicture(const L2Format& format, Bytes table, uint64_t start, uint64_t end, uint64_t expected,
                      const PictureGrid& grid) {
  L2Format merging = format;
  merging.ignoreCopied = true;
  double runs[kRuns * kRunStride];
  const size_t entries = table.size() / format.entrySize();
  const size_t guestParts = grid.guest.size() / kGuestPartStride;
  uint64_t at = start;
  for (size_t entry = 0; entry < entries && at < end;) {
    const size_t count = mapL2(merging, table, entry, entries - entry, {runs, kRuns * kRunStride});
    uint64_t covered = 0;
    for (size_t i = 0; i < count; ++i) {
      const double* run = runs + i * kRunStride;
      const uint64_t length = static_cast<uint64_t>(run[1]);
      covered += length;
      if (at >= end) continue;
      Piece piece{static_cast<RunKind>(run[0]), at, std::min(length, end - at), static_cast<uint64_t>(run[2]), 0};
      piece.hostLength = piece.kind == RunKind::compressed ? static_cast<uint64_t>(run[3]) : piece.length;
      if (isStored(piece.kind)) {
        if (!continues(piece, expected))
          grid.guest[partOf(at, grid.guestPart, guestParts) * kGuestPartStride + 7] += 1;
        expected = piece.host + piece.hostLength;
      }
      addPiece(piece, grid);
      at += length;
    }
    entry += static_cast<size_t>(covered >> format.clusterBits);
  }
  return expected;
}

}  // namespace qcow2
