// Pictures of L2 tables for JavaScript.
#include <cmath>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/l2_format.h"
#include "core/l2_picture.h"

namespace qcow2::binding {
namespace {

constexpr size_t kMaxParts = 1 << 16;
constexpr size_t kMaxSide = 1 << 10;

bool isPartList(const Span<double>& list, size_t stride) {
  return list.size() >= stride && list.size() % stride == 0 && list.size() / stride <= kMaxParts;
}

napi_value addTable(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const L2Format format = takeL2Format(args, 1, 2);
  const uint64_t start = args.natural(3, "start");
  const uint64_t end = args.natural(4, "end");
  const uint64_t expected = args.natural(5, "expected");
  const uint64_t guestPart = args.natural(6, "guestPart");
  const uint64_t hostPart = args.natural(7, "hostPart");
  const Bytes table = takeL2Table(args, 0, format);
  const Span<double> guest = args.doubles(8, "guest");
  const Span<double> host = args.doubles(9, "host");
  const Span<double> links = args.doubles(10, "links");
  if (args.failed()) return nullptr;
  args.requireRange(guestPart > 0, "guestPart", "above 0");
  args.requireRange(hostPart > 0, "hostPart", "above 0");
  args.requireRange(isPartList(guest, kGuestPartStride), "guest.length", "8 for each of 1 to 65536 parts");
  args.requireRange(isPartList(host, kHostPartStride), "host.length", "3 for each of 1 to 65536 parts");
  const size_t side = static_cast<size_t>(std::lround(std::sqrt(static_cast<double>(links.size()))));
  args.requireRange(side >= 1 && side <= kMaxSide && side * side == links.size(), "links.length",
                    "the square of 1 to 1024");
  if (args.failed()) return nullptr;
  const PictureGrid grid{guestPart, hostPart, guest, host, links, side};
  return number(env, safeNumber(addToPicture(format, table, start, end, expected, grid)));
}

}  // namespace

bool initL2Picture(napi_env env, napi_value exports) {
  return exportFunctions(env, exports, {{"addToPicture", addTable}});
}

}  // namespace qcow2::binding
