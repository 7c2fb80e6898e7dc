// Each thread takes the next unit, reads it, finds its zeros, compresses what is left, waits for its turn to take a
// place, and writes.
#include "os/transfer.h"

#include <algorithm>
#include <cerrno>

#include "core/zero.h"
#include "os/space.h"

namespace qcow2 {
namespace {

// Shorter runs are not worth a call of their own.
constexpr size_t kMinReserved = 64 * 1024;

// With the pieces of each unit in the order of the disk.
TransferPlan inOrder(TransferPlan plan) {
  for (const TransferUnit& unit : plan.units) sortPieces(plan.pieces, unit.first_piece, unit.pieces);
  return plan;
}

size_t wholeBlocks(size_t length, size_t block) { return (length + block - 1) / block * block; }

}  // namespace

Transfer::Transfer(TransferPlan plan)
    : plan_(inOrder(std::move(plan))),
      reserves_(gainsFromReserving(plan_.out)),
      places_(plan_.places, static_cast<int64_t>(plan_.granularity), plan_.area, plan_.limits) {}

void Transfer::run(MutableBytes buffer, MutableBytes streams, CodecContext& codec) {
  PieceReader reader(codec);
  Desk desk = {buffer, streams, {}, {}, {}, {}};
  for (;;) {
    size_t index;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (stopped_ || next_ == plan_.units.size()) return;
      index = next_++;
    }
    const TransferUnit& unit = plan_.units[index];
    if (!fill(unit, reader, desk)) return;
    findRuns(unit, desk);
    if (plan_.placing == Placing::kCompressed && !encode(codec, desk)) return;
    if (!place(index, desk) || !store(desk)) return;
  }
}

// Past the end of the disk the last block is written with zeros.
bool Transfer::fill(const TransferUnit& unit, PieceReader& reader, Desk& desk) {
  const MutableBytes whole = desk.data.subspan(0, wholeBlocks(unit.length, plan_.granularity));
  const Filled filled =
      reader.fill(plan_.pieces.data() + unit.first_piece, unit.pieces, whole, plan_.granularity, desk.covered);
  if (!filled.isWhole()) fail(filled.result, filled.damaged);
  return filled.isWhole();
}

void Transfer::findRuns(const TransferUnit& unit, Desk& desk) const {
  desk.runs.clear();
  if (!plan_.sparse) {
    for (const UnitRange& range : desk.covered) {
      desk.runs.push_back({range.start, std::min(range.end, unit.length)});
    }
    return;
  }
  for (const UnitRange& range : desk.covered) {
    bool in_zeros = true;
    for (size_t at = range.start; at < range.end; at += plan_.granularity) {
      const bool zero = isZero(desk.data.subspan(at, plan_.granularity));
      if (!zero && in_zeros) desk.runs.push_back({at, at});
      if (!zero) desk.runs.back().end = std::min(at + plan_.granularity, unit.length);
      in_zeros = zero;
    }
  }
}

bool Transfer::encode(CodecContext& codec, Desk& desk) {
  const size_t block = plan_.granularity;
  size_t used = 0;
  desk.lengths.clear();
  for (const UnitRange& run : desk.runs) {
    for (size_t at = run.start; at < run.end; at += block) {
      const size_t length = codec.encode(plan_.codec, plan_.level, desk.data.subspan(at, block),
                                         desk.streams.subspan(used, block - 1));
      if (length == kEncodeFailed) {
        fail(OsResult::failed("compress", ENOMEM), false);
        return false;
      }
      desk.lengths.push_back(length);
      used += length;
    }
  }
  return true;
}

bool Transfer::place(size_t index, Desk& desk) {
  desk.writes.clear();
  const TransferUnit& unit = plan_.units[index];
  if (plan_.placing == Placing::kSame) {
    for (const UnitRange& run : desk.runs) {
      desk.writes.push_back(
          {desk.data.subspan(run.start, run.end - run.start), unit.guest + static_cast<int64_t>(run.start)});
    }
    return true;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  turn_changed_.wait(lock, [&] { return turn_ == index || stopped_; });
  if (stopped_) return false;
  const bool done = placeRuns(unit, desk);
  turn_ = index + 1;
  turn_changed_.notify_all();
  return done;
}

// The binding has seen to it that there is room for everything.
bool Transfer::placeRuns(const TransferUnit& unit, Desk& desk) {
  size_t block = 0;
  size_t used = 0;
  for (const UnitRange& run : desk.runs) {
    const MutableBytes whole = desk.data.subspan(run.start, wholeBlocks(run.end - run.start, plan_.granularity));
    if (!placeRun(unit.guest + static_cast<int64_t>(run.start), whole, desk, block, used)) return false;
  }
  return true;
}

// `block` and `used` are how many blocks of the unit, and bytes of its streams, came before.
bool Transfer::placeRun(int64_t guest, MutableBytes run, Desk& desk, size_t& block, size_t& used) {
  if (plan_.placing == Placing::kPacked) return placeBlocks(guest, run, desk);
  for (size_t at = 0; at < run.size(); at += plan_.granularity) {
    const int64_t position = guest + static_cast<int64_t>(at);
    const size_t length = desk.lengths[block++];
    if (length == 0) {
      if (!placeBlocks(position, run.subspan(at, plan_.granularity), desk)) return false;
      continue;
    }
    const int64_t host = places_.takeBytes(static_cast<int64_t>(length));
    if (host < 0) return false;
    placed_.push_back({position, static_cast<int64_t>(length), host});
    const Bytes stream = desk.streams.subspan(used, length);
    used += length;
    Write* const last = desk.writes.empty() ? nullptr : &desk.writes.back();
    if (last != nullptr && last->bytes.data() + last->bytes.size() == stream.data() &&
        last->host + static_cast<int64_t>(last->bytes.size()) == host) {
      last->bytes = Bytes(last->bytes.data(), last->bytes.size() + length);
    } else {
      desk.writes.push_back({stream, host});
    }
  }
  return true;
}

bool Transfer::placeBlocks(int64_t guest, MutableBytes run, Desk& desk) {
  for (size_t done = 0; done < run.size();) {
    const HostRange place = places_.takeBlocks(static_cast<int64_t>(run.size() - done));
    if (place.length == 0) return false;
    const auto length = static_cast<size_t>(place.length);
    note({guest + static_cast<int64_t>(done), place.length, place.position});
    desk.writes.push_back({run.subspan(done, length), place.position});
    done += length;
  }
  return true;
}

// Whole blocks, joined with those before them.
void Transfer::note(const Placed& placed) {
  Placed* const last = placed_.empty() ? nullptr : &placed_.back();
  const bool joins = last != nullptr && last->length >= static_cast<int64_t>(plan_.granularity) &&
                     last->guest + last->length == placed.guest && last->host + last->length == placed.host;
  if (joins) {
    last->length += placed.length;
  } else {
    placed_.push_back(placed);
  }
}

bool Transfer::store(const Desk& desk) {
  // Linux lets one thread at a time write into a file, and the others wait without rest: here they sleep, so that
  // another can decode or compress meanwhile.
  const std::lock_guard<std::mutex> guard(writing_);
  for (const Write& write : desk.writes) {
    // Whether there is room at all is found out by the write.
    if (reserves_ && write.bytes.size() >= kMinReserved) {
      allocate(plan_.out, write.host, static_cast<int64_t>(write.bytes.size()), true);
    }
    const OsResult written = writeFully(plan_.out, write.bytes, write.host);
    if (written.kind != OsResult::Kind::kDone) {
      fail(written, false);
      return false;
    }
  }
  return true;
}

void Transfer::fail(const OsResult& failure, bool damaged) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (!stopped_) {
    failure_ = failure;
    damaged_ = damaged;
  }
  stopped_ = true;
  turn_changed_.notify_all();
}

}  // namespace qcow2
