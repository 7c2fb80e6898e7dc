// Each thread takes the next unit, reads it, finds its zeros, waits for its turn to take a place, and writes.
#include "os/transfer.h"

#include <algorithm>
#include <cstring>

#include "core/zero.h"
#include "os/space.h"

#ifndef _WIN32
#include <unistd.h>

#include <cerrno>
#endif

namespace qcow2 {
namespace {

// Shorter runs are not worth a call of their own.
constexpr int64_t kMinReserved = 64 * 1024;

// With the pieces of each unit in the order of the disk.
TransferPlan inOrder(TransferPlan plan) {
  for (const TransferUnit& unit : plan.units) {
    const auto first = plan.pieces.begin() + static_cast<ptrdiff_t>(unit.first_piece);
    std::sort(first, first + static_cast<ptrdiff_t>(unit.pieces),
              [](const TransferPiece& a, const TransferPiece& b) { return a.offset < b.offset; });
  }
  return plan;
}

void clear(MutableBytes bytes) { std::memset(bytes.data(), 0, bytes.size()); }

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

}  // namespace

#else

namespace {

OsResult readFully(int, MutableBytes, int64_t) { return OsResult::unsupported(); }
OsResult writeFully(int, Bytes, int64_t) { return OsResult::unsupported(); }

}  // namespace

#endif

Transfer::Transfer(TransferPlan plan)
    : plan_(inOrder(std::move(plan))), reserves_(gainsFromReserving(plan_.out)) {}

void Transfer::run(MutableBytes buffer, CodecContext& codec) {
  std::vector<unsigned char> spare;
  std::vector<double> ends(buffer.size() / plan_.granularity + 2);
  std::vector<Placed> targets;
  for (;;) {
    size_t index;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (stopped_ || next_ == plan_.units.size()) return;
      index = next_++;
    }
    const TransferUnit& unit = plan_.units[index];
    if (!fill(unit, buffer, codec, spare)) return;
    const size_t runs =
        zeroRuns(buffer.subspan(0, unit.length), plan_.granularity, Span<double>(ends.data(), ends.size()));
    targets.clear();
    if (!place(index, ends, runs, targets) || !store(unit, buffer, targets)) return;
  }
}

bool Transfer::fill(const TransferUnit& unit, MutableBytes buffer, CodecContext& codec,
                    std::vector<unsigned char>& spare) {
  size_t filled = 0;
  for (size_t i = 0; i < unit.pieces; ++i) {
    const TransferPiece& piece = plan_.pieces[unit.first_piece + i];
    const MutableBytes out = buffer.subspan(piece.offset, piece.length);
    if (piece.offset > filled) clear(buffer.subspan(filled, piece.offset - filled));
    filled = std::max(filled, piece.offset + piece.length);
    if (piece.cluster_size != 0) {
      if (!decode(piece, out, codec, spare)) return false;
      continue;
    }
    const OsResult read = readFully(piece.fd, out, piece.position);
    if (read.kind == OsResult::Kind::kFailed) {
      fail(read);
      return false;
    }
    if (read.kind != OsResult::Kind::kDone || read.value != static_cast<int64_t>(piece.length)) {
      failDamaged();
      return false;
    }
  }
  // Past the end of the disk the last block is written with zeros.
  const size_t padded = (unit.length + plan_.granularity - 1) / plan_.granularity * plan_.granularity;
  if (filled < padded) clear(buffer.subspan(filled, padded - filled));
  return true;
}

bool Transfer::decode(const TransferPiece& piece, MutableBytes out, CodecContext& codec,
                      std::vector<unsigned char>& spare) {
  const bool whole = piece.length == piece.cluster_size;
  spare.resize(piece.stored + (whole ? 0 : piece.cluster_size));
  const MutableBytes all(spare.data(), spare.size());
  const MutableBytes in = all.subspan(0, piece.stored);
  const MutableBytes cluster = whole ? out : all.subspan(piece.stored, piece.cluster_size);
  const OsResult read = readFully(piece.fd, in, piece.position);
  if (read.kind == OsResult::Kind::kFailed) {
    fail(read);
    return false;
  }
  // The last sector of a stream may be cut off by the end of the file.
  const size_t got = read.kind == OsResult::Kind::kDone ? static_cast<size_t>(read.value) : 0;
  std::fill(in.data() + got, in.data() + in.size(), static_cast<unsigned char>(0));
  if (codec.decode(piece.codec, in, cluster) != DecodeResult::kOk) {
    failDamaged();
    return false;
  }
  if (!whole) std::memcpy(out.data(), cluster.data() + piece.skip, out.size());
  return true;
}

bool Transfer::place(size_t index, const std::vector<double>& ends, size_t runs,
                     std::vector<Placed>& targets) {
  const TransferUnit& unit = plan_.units[index];
  std::unique_lock<std::mutex> lock(mutex_);
  if (plan_.packed) {
    turn_changed_.wait(lock, [&] { return turn_ == index || stopped_; });
    if (stopped_) return false;
  }
  int64_t start = 0;
  for (size_t i = 0; i < runs; ++i) {
    const auto end = static_cast<int64_t>(ends[i]);
    // The first run is data, then they alternate.
    if (i % 2 == 0 && end > start) {
      if (plan_.packed) {
        placePacked(unit.guest + start, end - start, targets);
      } else {
        targets.push_back({unit.guest + start, end - start, unit.guest + start});
      }
    }
    start = end;
  }
  if (plan_.packed) {
    turn_ = index + 1;
    turn_changed_.notify_all();
  }
  return true;
}

void Transfer::placePacked(int64_t guest, int64_t length, std::vector<Placed>& targets) {
  const auto granularity = static_cast<int64_t>(plan_.granularity);
  int64_t rest = (length + granularity - 1) / granularity * granularity;
  // The binding has seen to it that there is room for everything.
  while (rest > 0 && place_ < plan_.places.size()) {
    const HostRange& place = plan_.places[place_];
    const int64_t part = std::min(rest, place.length - place_used_);
    const Placed target = {guest, part, place.position + place_used_};
    targets.push_back(target);
    if (!placed_.empty() && placed_.back().guest + placed_.back().length == guest &&
        placed_.back().host + placed_.back().length == target.host) {
      placed_.back().length += part;
    } else {
      placed_.push_back(target);
    }
    guest += part;
    rest -= part;
    place_used_ += part;
    if (place_used_ == place.length) {
      ++place_;
      place_used_ = 0;
    }
  }
}

bool Transfer::store(const TransferUnit& unit, MutableBytes buffer, const std::vector<Placed>& targets) {
  for (const Placed& target : targets) {
    const auto offset = static_cast<size_t>(target.guest - unit.guest);
    // Whether there is room at all is found out by the write.
    if (reserves_ && target.length >= kMinReserved) allocate(plan_.out, target.host, target.length, true);
    const OsResult written =
        writeFully(plan_.out, buffer.subspan(offset, static_cast<size_t>(target.length)), target.host);
    if (written.kind != OsResult::Kind::kDone) {
      fail(written);
      return false;
    }
  }
  return true;
}

void Transfer::fail(const OsResult& failure) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (!stopped_) failure_ = failure;
  stopped_ = true;
  turn_changed_.notify_all();
}

void Transfer::failDamaged() {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (!stopped_) damaged_ = true;
  stopped_ = true;
  turn_changed_.notify_all();
}

}  // namespace qcow2
