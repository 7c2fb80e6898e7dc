// Ranges are cut from the front; streams go behind one another while their block may have one more.
#include "core/places.h"

#include <algorithm>

namespace qcow2 {
namespace {

// Streams have ahead this part of the blocks they have already.
constexpr int64_t kGrowth = 32;

}  // namespace

HostRange Places::takeBlocks(int64_t length) {
  if (range_ == ranges_.size()) return {0, 0};
  const HostRange& range = ranges_[range_];
  const HostRange taken = {range.position + used_, std::min(length, range.length - used_)};
  used_ += taken.length;
  if (used_ == range.length) {
    ++range_;
    used_ = 0;
  }
  return taken;
}

int64_t Places::takeBytes(int64_t length) {
  while (!fits(length)) {
    const int64_t following = (area_.next + block_ - 1) / block_ * block_;
    if (following < area_.end) {
      area_.next = following;
      area_.shares = 0;
    } else if (!takeAhead()) {
      return -1;
    }
  }
  const int64_t start = area_.next;
  area_.next += length;
  if (start / block_ == area_.next / block_) {
    ++area_.shares;
  } else {
    area_.shares = area_.next % block_ == 0 ? 0 : 1;
  }
  return start;
}

// Whether a stream may begin at area_.next.
bool Places::fits(int64_t length) const {
  if (area_.next + length > area_.end) return false;
  return area_.next % block_ == 0 || area_.shares < limits_.shares;
}

// Goes on behind the area if the next blocks are there, else in a new one.
bool Places::takeAhead() {
  const int64_t ahead = std::clamp<int64_t>(area_.blocks / kGrowth, 1, limits_.ahead);
  const HostRange taken = takeBlocks(ahead * block_);
  if (taken.length == 0) return false;
  area_.blocks += taken.length / block_;
  if (taken.position != area_.end) {
    area_.next = taken.position;
    area_.shares = 0;
  }
  area_.end = taken.position + taken.length;
  return true;
}

}  // namespace qcow2
