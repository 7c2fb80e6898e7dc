// The extents of a disk as lines of JSON, as `qemu-img map` prints them.
#include "core/extent_json.h"

#include <charconv>
#include <cstring>

namespace qcow2 {
namespace {

constexpr double kSafe = 9007199254740991;  // Number.MAX_SAFE_INTEGER
constexpr double kMaxDepth = 4294967295;

bool isWhole(double value, double min, double max) {
  // What is no number compares false with everything.
  return value >= min && value <= max && static_cast<double>(static_cast<int64_t>(value)) == value;
}

// Appends to memory whose room was reckoned beforehand.
class Text {
 public:
  explicit Text(MutableBytes out) : begin_(reinterpret_cast<char*>(out.data())), at_(begin_) {}

  template <size_t size>
  void add(const char (&text)[size]) {
    std::memcpy(at_, text, size - 1);
    at_ += size - 1;
  }
  void add(double number) {
    // The longest safe integer has 16 digits.
    at_ = std::to_chars(at_, at_ + 20, static_cast<uint64_t>(number)).ptr;
  }
  size_t size() const { return static_cast<size_t>(at_ - begin_); }

 private:
  char* begin_;
  char* at_;
};

void addFlags(Text& text, ExtentType type) {
  switch (type) {
    case ExtentType::data:
    case ExtentType::compressed:
      return text.add(", \"present\": true, \"zero\": false, \"data\": true");
    case ExtentType::zero:
      return text.add(", \"present\": true, \"zero\": true, \"data\": false");
    case ExtentType::unallocated:
      return text.add(", \"present\": false, \"zero\": true, \"data\": false");
    case ExtentType::dataInHole:
      return text.add(", \"present\": true, \"zero\": true, \"data\": true");
  }
}

}  // namespace

bool areExtents(Span<const double> extents) {
  if (extents.size() % kExtentStride != 0) return false;
  for (size_t at = 0; at < extents.size(); at += kExtentStride) {
    if (!isWhole(extents[at], 0, kSafe) || !isWhole(extents[at + 1], 0, kSafe) ||
        !isWhole(extents[at + 2], 0, static_cast<double>(ExtentType::dataInHole)) ||
        !isWhole(extents[at + 3], 0, kMaxDepth) || !isWhole(extents[at + 4], -1, kSafe)) {
      return false;
    }
  }
  return true;
}

size_t writeExtentJson(Span<const double> extents, MutableBytes out) {
  const size_t count = extents.size() / kExtentStride;
  Text text(out.subspan(0, count * kMaxExtentJson));
  for (size_t at = 0; at < count * kExtentStride; at += kExtentStride) {
    text.add(",\n{ \"start\": ");
    text.add(extents[at]);
    text.add(", \"length\": ");
    text.add(extents[at + 1]);
    text.add(", \"depth\": ");
    text.add(extents[at + 3]);
    addFlags(text, static_cast<ExtentType>(extents[at + 2]));
    if (extents[at + 4] >= 0) {
      text.add(", \"offset\": ");
      text.add(extents[at + 4]);
    }
    text.add("}");
  }
  return text.size();
}

}  // namespace qcow2
