// Each thread takes the next unit, reads it, finds its zeros and compresses what is left, or writes what is ready: in the
// order in which it takes places.
#include "os/transfer.h"

#include <algorithm>
#include <cerrno>

#include "core/zero.h"
#include "os/space.h"

namespace qcow2 {
namespace {

// Shorter runs are not worth a call of their own.
constexpr int64_t kMinReserved = 64 * 1024;
// What is reserved ahead: a call for each run would take a twentieth of the time of the writes.
constexpr int64_t kMaxAhead = 4 * 1024 * 1024;

// Bytes of the other disk that are read and compared at once, unless blocks are longer: they stay in the processor's cache.
constexpr size_t kStep = 64 * 1024;

// There was not as much room as the binding has seen to.
const Filled kUnplanned = {OsResult::done(), true};

// With the pieces of each unit in the order of the disk.
TransferPlan inOrder(TransferPlan plan) {
  for (const TransferUnit& unit : plan.units) {
    sortPieces(plan.pieces, unit.first_piece, unit.pieces);
    sortPieces(plan.pieces, unit.first_piece + unit.pieces, unit.other_pieces);
  }
  return plan;
}

bool contains(const HostRange& range, int64_t position) {
  return position >= range.position && position - range.position < range.length;
}

int64_t roomFrom(const HostRange& range, int64_t position) { return range.length - (position - range.position); }

size_t wholeBlocks(size_t length, size_t block) { return (length + block - 1) / block * block; }

// Goes along what is covered of a unit, block by block.
class Covered {
 public:
  explicit Covered(const std::vector<UnitRange>& ranges) : ranges_(ranges) {}

  // Whether the block that begins at `at`, behind those asked for before, is.
  bool has(size_t at) {
    while (next_ < ranges_.size() && ranges_[next_].end <= at) ++next_;
    return next_ < ranges_.size() && ranges_[next_].start <= at;
  }

 private:
  const std::vector<UnitRange>& ranges_;
  size_t next_ = 0;
};

}  // namespace

Transfer::Transfer(TransferPlan plan, const std::vector<Buffers>& buffers)
    : plan_(inOrder(std::move(plan))),
      reserves_(gainsFromReserving(plan_.out)),
      places_(plan_.places, static_cast<int64_t>(plan_.granularity), plan_.area, plan_.limits) {
  desks_.reserve(buffers.size());
  for (const Buffers& one : buffers) desks_.push_back({one, 0, {}, {}, {}, {}, {}});
  for (Desk& desk : desks_) idle_.push_back(&desk);
}

// Linux lets one thread at a time write into a file, and the others wait without rest. So one thread writes what is
// there to be written while others go on with the next units, and a thread sleeps only when no buffer is left.
void Transfer::run(CodecContext& codec) {
  PieceReader reader(codec);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopped_) {
    if (Desk* const written = takePrepared(); written != nullptr) {
      lock.unlock();
      const Filled result = store(*written);
      lock.lock();
      writing_ = false;
      idle_.push_back(written);
      if (!result.isWhole()) stop(result);
      changed_.notify_all();
    } else if (stopped_) {
      return;
    } else if (Desk* const desk = takeIdle(); desk != nullptr) {
      lock.unlock();
      const Filled result = prepare(*desk, reader, codec);
      lock.lock();
      prepared_.push_back(desk);
      if (!result.isWhole()) stop(result);
    } else if (next_ == plan_.units.size()) {
      // What is not written yet is left to those that are at it.
      return;
    } else {
      changed_.wait(lock);
    }
  }
}

// The first of the units that are prepared. Where they are placed in order, a later one has to wait.
Transfer::Desk* Transfer::takePrepared() {
  if (writing_ || prepared_.empty()) return nullptr;
  const auto first = std::min_element(prepared_.begin(), prepared_.end(),
                                      [](const Desk* a, const Desk* b) { return a->unit < b->unit; });
  Desk* const desk = *first;
  if (plan_.placing != Placing::kSame && desk->unit != turn_) return nullptr;
  prepared_.erase(first);
  if (!place(*desk)) {
    stop(kUnplanned);
    return nullptr;
  }
  writing_ = true;
  return desk;
}

// The buffer that was used last is likely to be in the processor's cache.
Transfer::Desk* Transfer::takeIdle() {
  if (idle_.empty() || next_ == plan_.units.size()) return nullptr;
  Desk* const desk = idle_.back();
  idle_.pop_back();
  desk->unit = next_++;
  return desk;
}

void Transfer::stop(const Filled& failure) {
  if (!stopped_) {
    failure_ = failure.result;
    damaged_ = failure.damaged;
  }
  stopped_ = true;
  changed_.notify_all();
}

// Past the end of the disk the last block is written with zeros.
Filled Transfer::prepare(Desk& desk, PieceReader& reader, CodecContext& codec) const {
  const TransferUnit& unit = plan_.units[desk.unit];
  const MutableBytes whole = desk.buffers.data.subspan(0, wholeBlocks(unit.length, plan_.granularity));
  const Filled filled =
      reader.fill(plan_.pieces.data() + unit.first_piece, unit.pieces, whole, plan_.granularity, desk.covered);
  if (!filled.isWhole()) return filled;
  if (plan_.content == Content::kDiffering) return findDiffering(unit, desk, reader);
  findRuns(unit, desk);
  return plan_.placing == Placing::kCompressed ? encode(codec, desk) : filled;
}

void Transfer::findRuns(const TransferUnit& unit, Desk& desk) const {
  desk.runs.clear();
  if (plan_.content == Content::kRead) {
    for (const UnitRange& range : desk.covered) {
      desk.runs.push_back({{range.start, std::min(range.end, unit.length)}, false});
    }
    return;
  }
  for (const UnitRange& range : desk.covered) {
    bool in_zeros = true;
    for (size_t at = range.start; at < range.end; at += plan_.granularity) {
      const bool zero = isZero(desk.buffers.data.subspan(at, plan_.granularity));
      if (!zero && in_zeros) desk.runs.push_back({{at, at}, false});
      if (!zero) desk.runs.back().range.end = std::min(at + plan_.granularity, unit.length);
      in_zeros = zero;
    }
  }
}

// Reads the other disk part by part. What no piece of a disk fills is zeros there.
Filled Transfer::findDiffering(const TransferUnit& unit, Desk& desk, PieceReader& reader) const {
  desk.runs.clear();
  const size_t block = plan_.granularity;
  const size_t end = wholeBlocks(unit.length, block);
  const size_t step = wholeBlocks(kStep, block);
  PartCursor there(plan_.pieces.data() + unit.first_piece + unit.pieces, unit.other_pieces);
  Covered covered(desk.covered);
  for (size_t start = 0; start < end; start += step) {
    const size_t stop = std::min(end, start + step);
    const std::vector<Piece>& pieces = there.part(start, stop);
    const MutableBytes part = desk.buffers.more.subspan(0, stop - start);
    const Filled filled = reader.fill(pieces.data(), pieces.size(), part, block, desk.covered_there);
    if (!filled.isWhole()) return filled;
    Covered covered_there(desk.covered_there);
    for (size_t at = start; at < stop; at += block) {
      const Bytes own = desk.buffers.data.subspan(at, covered.has(at) ? block : 0);
      const Bytes other = part.subspan(at - start, covered_there.has(at - start) ? block : 0);
      if (isSame(own, other)) continue;
      const bool hidden = own.size() == 0 || isZero(own);
      Run* const last = desk.runs.empty() ? nullptr : &desk.runs.back();
      const bool joins = last != nullptr && last->hidden == hidden && last->range.end == at;
      if (!joins) desk.runs.push_back({{at, at}, hidden});
      desk.runs.back().range.end = std::min(at + block, unit.length);
    }
  }
  return {OsResult::done(), false};
}

Filled Transfer::encode(CodecContext& codec, Desk& desk) const {
  const size_t block = plan_.granularity;
  size_t used = 0;
  desk.lengths.clear();
  for (const Run& run : desk.runs) {
    for (size_t at = run.range.start; at < run.range.end; at += block) {
      const size_t length = codec.encode(plan_.codec, plan_.level, desk.buffers.data.subspan(at, block),
                                         desk.buffers.more.subspan(used, block - 1));
      if (length == kEncodeFailed) return {OsResult::failed("compress", ENOMEM), false};
      desk.lengths.push_back(length);
      used += length;
    }
  }
  return {OsResult::done(), false};
}

bool Transfer::place(Desk& desk) {
  desk.writes.clear();
  const TransferUnit& unit = plan_.units[desk.unit];
  if (plan_.placing == Placing::kSame) {
    for (const auto& [range, hidden] : desk.runs) {
      const Bytes bytes = desk.buffers.data.subspan(range.start, range.end - range.start);
      desk.writes.push_back({bytes, unit.guest + static_cast<int64_t>(range.start)});
    }
    return true;
  }
  turn_ = desk.unit + 1;
  return placeRuns(unit, desk);
}

// The binding has seen to it that there is room for everything.
bool Transfer::placeRuns(const TransferUnit& unit, Desk& desk) {
  size_t block = 0;
  size_t used = 0;
  for (const auto& [range, hidden] : desk.runs) {
    const int64_t guest = unit.guest + static_cast<int64_t>(range.start);
    const size_t length = wholeBlocks(range.end - range.start, plan_.granularity);
    if (hidden) {
      note({guest, static_cast<int64_t>(length), kHidden});
    } else if (!placeRun(guest, desk.buffers.data.subspan(range.start, length), desk, block, used)) {
      return false;
    }
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
    const Bytes stream = desk.buffers.more.subspan(used, length);
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
  const bool follows = last != nullptr && last->length >= static_cast<int64_t>(plan_.granularity) &&
                       last->guest + last->length == placed.guest;
  const bool hidden = placed.host == kHidden;
  if (follows && (hidden ? last->host == kHidden
                         : last->host != kHidden && last->host + last->length == placed.host)) {
    last->length += placed.length;
  } else {
    placed_.push_back(placed);
  }
}

// Whether there is room at all is found out by the write.
void Transfer::reserve(const Write& write) {
  const auto length = static_cast<int64_t>(write.bytes.size());
  if (contains(reserved_, write.host) && length <= roomFrom(reserved_, write.host)) return;
  const int64_t wanted = std::max(length, placesFrom(write.host));
  if (wanted < kMinReserved) return;
  allocate(plan_.out, write.host, wanted, true);
  reserved_ = {write.host, wanted};
}

// How far places go on in one piece from a position behind those asked for before; 0 unless space may be reserved ahead.
int64_t Transfer::placesFrom(int64_t position) {
  if (!plan_.reserves_ahead) return 0;
  const std::vector<HostRange>& places = plan_.places;
  while (place_ < places.size() && !contains(places[place_], position)) ++place_;
  return place_ == places.size() ? 0 : std::min(roomFrom(places[place_], position), kMaxAhead);
}

Filled Transfer::store(const Desk& desk) {
  for (const Write& write : desk.writes) {
    if (reserves_) reserve(write);
    const OsResult written = writeFully(plan_.out, write.bytes, write.host);
    if (written.kind != OsResult::Kind::kDone) return {written, false};
  }
  return {OsResult::done(), false};
}

}  // namespace qcow2
