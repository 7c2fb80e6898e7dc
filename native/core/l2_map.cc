// Translating a stretch of an L2 table into merged runs.
#include "core/l2_map.h"

#include <algorithm>

#include "core/bits.h"

namespace qcow2 {
namespace {

struct Run {
  RunKind kind;
  uint64_t length;
  uint64_t host;
  uint64_t aux;
};

bool isPlaced(RunKind kind) {
  return kind == RunKind::data || kind == RunKind::zeroAllocated || kind == RunKind::unallocatedInCluster;
}

// Collects runs, merging neighbours. The last run is kept back, as it may still grow.
class RunWriter {
 public:
  struct State {
    size_t count;
    Run last;
  };

  RunWriter(Span<double> out, bool ignoreCopied)
      : out_(out), capacity_(out.size() / kRunStride), ignoreCopied_(ignoreCopied) {}

  // False, changing nothing, when there is no room for another run.
  bool append(const Run& run) {
    if (state_.count != 0 && continues(run)) {
      state_.last.length += run.length;
      return true;
    }
    if (state_.count == capacity_) return false;
    storeLast();
    state_.last = run;
    ++state_.count;
    return true;
  }

  State save() const { return state_; }
  void restore(const State& state) { state_ = state; }

  size_t finish() {
    storeLast();
    return state_.count;
  }

 private:
  bool continues(const Run& run) const {
    const Run& last = state_.last;
    if (run.kind != last.kind || run.kind == RunKind::compressed) return false;
    if (isPlaced(run.kind)) {
      return run.host == last.host + last.length && (ignoreCopied_ || run.aux == last.aux);
    }
    return run.aux == last.aux;
  }

  void storeLast() {
    if (state_.count == 0) return;
    const Run& last = state_.last;
    const Span<double> slot = out_.subspan((state_.count - 1) * kRunStride, kRunStride);
    slot[0] = static_cast<double>(last.kind);
    slot[1] = static_cast<double>(last.length);
    slot[2] = static_cast<double>(last.host);
    slot[3] = static_cast<double>(last.aux);
  }

  Span<double> out_;
  size_t capacity_;
  bool ignoreCopied_;
  State state_{0, {RunKind::unallocated, 0, 0, 0}};
};

RunKind kindOf(bool allocated, bool zero, bool hasHost) {
  if (allocated) return RunKind::data;
  if (zero) return hasHost ? RunKind::zeroAllocated : RunKind::zero;
  return hasHost ? RunKind::unallocatedInCluster : RunKind::unallocated;
}

// Whether all subclusters are in the same state (always so without extended entries).
bool isUniform(const L2Entry& entry) {
  const bool allSet = entry.allocated == kAllSubclusters || entry.zero == kAllSubclusters;
  return entry.kind == EntryKind::standard && (allSet || (entry.allocated | entry.zero) == 0);
}

// The run of an entry that is compressed, invalid or uniform.
Run wholeRun(const L2Format& format, const L2Entry& entry) {
  const uint64_t length = format.clusterSize();
  switch (entry.kind) {
    case EntryKind::compressed:
      return {RunKind::compressed, length, entry.host, entry.hostLength};
    case EntryKind::invalid:
      return {RunKind::invalid, length, 0, static_cast<uint64_t>(entry.reason)};
    case EntryKind::standard:
      break;
  }
  return {kindOf(entry.allocated != 0, entry.zero != 0, entry.hasHost), length, entry.host, entry.copied};
}

// How many entries from `next` on are the raw continuation of a uniform entry: same bitmap, and the same
// descriptor (no host cluster) or that of the following host cluster. This is the loop that nearly all
// entries go through.
size_t countAlike(const L2Format& format, Bytes table, size_t next, size_t end, uint64_t descriptor,
                  uint64_t bitmap, bool hasHost) {
  const uint64_t step = hasHost ? format.clusterSize() : 0;
  // Unplaced entries are equal in all bits; and with external data COPIED alone tells host 0 from no host.
  const uint64_t mask = hasHost && format.ignoreCopied ? ~kCopied : ~uint64_t{0};
  uint64_t expected = descriptor & mask;
  if (hasHost) {
    // Past the last host offset the sum would run into reserved bits.
    const uint64_t room = (kHostEnd - (descriptor & kHostMask)) / step - 1;
    end = static_cast<size_t>(std::min<uint64_t>(end, next + room));
  }
  size_t index = next;
  if (format.extended) {
    for (; index < end; ++index) {
      expected += step;
      if ((loadBig<uint64_t>(table.data() + index * 16) & mask) != expected) break;
      if (loadBig<uint64_t>(table.data() + index * 16 + 8) != bitmap) break;
    }
  } else {
    for (; index < end; ++index) {
      expected += step;
      if ((loadBig<uint64_t>(table.data() + index * 8) & mask) != expected) break;
    }
  }
  return index - next;
}

// Appends the runs of an entry whose subclusters differ; all of them, or (false) none.
bool appendSubclusters(const L2Format& format, const L2Entry& entry, RunWriter& runs) {
  const RunWriter::State before = runs.save();
  const unsigned bits = format.subclusterBits();
  for (unsigned at = 0; at < kSubclusters;) {
    const bool allocated = (entry.allocated >> at) & 1;
    const bool zero = (entry.zero >> at) & 1;
    const uint32_t changes = ((entry.allocated >> at) ^ (allocated ? kAllSubclusters : 0)) |
                             ((entry.zero >> at) ^ (zero ? kAllSubclusters : 0));
    // The shifts bring zeros in at the top; the cluster's end bounds what they pretend.
    const unsigned alike = changes == 0 ? kSubclusters : lowestBit(changes);
    const unsigned length = std::min(alike, kSubclusters - at);
    const uint64_t host = entry.hasHost ? entry.host + (uint64_t{at} << bits) : 0;
    if (!runs.append(
            {kindOf(allocated, zero, entry.hasHost), uint64_t{length} << bits, host, entry.copied})) {
      runs.restore(before);
      return false;
    }
    at += length;
  }
  return true;
}

}  // namespace

size_t mapL2(const L2Format& format, Bytes table, size_t first, size_t count, Span<double> out) {
  table = table.subspan(0, (first + count) * format.entrySize());
  RunWriter runs(out, format.ignoreCopied);
  const size_t end = first + count;
  for (size_t index = first; index < end;) {
    const uint64_t descriptor = loadDescriptor(format, table, index);
    const uint64_t bitmap = loadBitmap(format, table, index);
    const L2Entry entry = decodeL2Entry(format, descriptor, bitmap);
    if (entry.kind == EntryKind::standard && !isUniform(entry)) {
      if (!appendSubclusters(format, entry, runs)) break;
      ++index;
      continue;
    }
    Run run = wholeRun(format, entry);
    size_t entries = 1;
    if (entry.kind == EntryKind::standard) {
      entries += countAlike(format, table, index + 1, end, descriptor, bitmap, entry.hasHost);
      run.length *= entries;
    }
    if (!runs.append(run)) break;
    index += entries;
  }
  return runs.finish();
}

}  // namespace qcow2
