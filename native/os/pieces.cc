// Positional reads straight into the unit, and decoding from spare memory.
#include "os/pieces.h"

#include <algorithm>
#include <cstring>

#ifndef _WIN32
#include <unistd.h>

#include <cerrno>
#endif

namespace qcow2 {
namespace {

void clear(MutableBytes buffer, size_t start, size_t end) {
  if (end > start) std::memset(buffer.data() + start, 0, end - start);
}

size_t blockStart(size_t offset, size_t block) { return offset / block * block; }
size_t blockEnd(size_t offset, size_t block) { return blockStart(offset + block - 1, block); }

const Filled kWhole = {OsResult::done(), false};
const Filled kDamaged = {OsResult::done(), true};

// `length` bytes of a piece from byte `from` of its unit on, for a part that begins at `start`.
Piece cut(const Piece& whole, size_t from, size_t length, size_t start) {
  Piece piece = whole;
  const size_t before = from - whole.offset;
  if (whole.cluster_size == 0) {
    piece.position += static_cast<int64_t>(before);
    piece.stored = length;
  } else {
    piece.skip += before;
  }
  piece.offset = from - start;
  piece.length = length;
  return piece;
}

}  // namespace

#ifndef _WIN32

namespace {

// Reads until the buffer is full or the file ends; the value is the bytes read.
OsResult readFully(int fd, MutableBytes buffer, int64_t position) {
  size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t got =
        pread(fd, buffer.data() + done, buffer.size() - done, position + static_cast<int64_t>(done));
    if (got == 0) break;
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (errno != EINTR) {
      return OsResult::failed("read", errno);
    }
  }
  return OsResult::done(static_cast<int64_t>(done));
}

}  // namespace

OsResult writeFully(int fd, Bytes buffer, int64_t position) {
  size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t put =
        pwrite(fd, buffer.data() + done, buffer.size() - done, position + static_cast<int64_t>(done));
    if (put > 0) {
      done += static_cast<size_t>(put);
    } else if (put == 0) {
      return OsResult::failed("write", EIO);
    } else if (errno != EINTR) {
      return OsResult::failed("write", errno);
    }
  }
  return OsResult::done(static_cast<int64_t>(done));
}

#else

namespace {

OsResult readFully(int, MutableBytes, int64_t) { return OsResult::unsupported(); }

}  // namespace

OsResult writeFully(int, Bytes, int64_t) { return OsResult::unsupported(); }

#endif

void sortPieces(std::vector<Piece>& pieces, size_t first, size_t count) {
  const auto begin = pieces.begin() + static_cast<ptrdiff_t>(first);
  const auto end = begin + static_cast<ptrdiff_t>(count);
  const auto before = [](const Piece& a, const Piece& b) { return a.offset < b.offset; };
  // Plans of one layer are.
  if (!std::is_sorted(begin, end, before)) std::sort(begin, end, before);
}

const std::vector<Piece>& PartCursor::part(size_t start, size_t end) {
  part_.clear();
  for (; next_ != end_ && next_->offset < end; ++next_) {
    const size_t from = std::max(start, next_->offset);
    const size_t to = std::min(end, next_->offset + next_->length);
    if (from < to) part_.push_back(cut(*next_, from, to - from, start));
    if (next_->offset + next_->length > end) break;
  }
  return part_;
}

Filled PieceReader::fill(const Piece* pieces, size_t count, MutableBytes buffer, size_t block,
                         std::vector<UnitRange>& covered) {
  covered.clear();
  size_t filled = 0;
  for (size_t i = 0; i < count; ++i) {
    const Piece& piece = pieces[i];
    const size_t whole = blockEnd(filled, block);
    const size_t start = blockStart(piece.offset, block);
    if (covered.empty() || start > whole) {
      clear(buffer, filled, whole);
      clear(buffer, start, piece.offset);
      if (!covered.empty()) covered.back().end = whole;
      covered.push_back({start, start});
    } else {
      clear(buffer, filled, piece.offset);
    }
    filled = std::max(filled, piece.offset + piece.length);
    const MutableBytes out = buffer.subspan(piece.offset, piece.length);
    const Filled result = piece.cluster_size == 0 ? read(piece, out) : decode(piece, out);
    if (!result.isWhole()) return result;
  }
  const size_t whole = blockEnd(filled, block);
  clear(buffer, filled, whole);
  if (!covered.empty()) covered.back().end = whole;
  return kWhole;
}

Filled PieceReader::read(const Piece& piece, MutableBytes out) {
  if (piece.memory != nullptr) {
    std::memcpy(out.data(), piece.memory + piece.position, out.size());
    return kWhole;
  }
  const OsResult got = readFully(piece.fd, out, piece.position);
  if (got.kind != OsResult::Kind::kDone) return {got, false};
  return got.value == static_cast<int64_t>(out.size()) ? kWhole : kDamaged;
}

Filled PieceReader::decode(const Piece& piece, MutableBytes out) {
  const bool whole = piece.length == piece.cluster_size;
  const bool there = piece.memory != nullptr;
  const size_t read = there ? 0 : piece.stored;
  spare_.resize(read + (whole ? 0 : piece.cluster_size));
  const MutableBytes all(spare_.data(), spare_.size());
  const MutableBytes cluster = whole ? out : all.subspan(read, piece.cluster_size);
  const Bytes in = there ? Bytes(piece.memory + piece.position, piece.stored) : Bytes(all.subspan(0, read));
  if (!there) {
    const OsResult got = readFully(piece.fd, all.subspan(0, read), piece.position);
    if (got.kind != OsResult::Kind::kDone) return {got, false};
    // The last sector of a stream may be cut off by the end of the file.
    const auto length = static_cast<size_t>(got.value);
    std::fill(all.data() + length, all.data() + read, static_cast<unsigned char>(0));
  }
  if (codec_.decode(piece.codec, in, cluster) != DecodeResult::kOk) return kDamaged;
  if (!whole) std::memcpy(out.data(), cluster.data() + piece.skip, out.size());
  return kWhole;
}

}  // namespace qcow2
