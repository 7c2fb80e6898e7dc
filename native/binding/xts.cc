// Tweak masks, vectors and xor for JavaScript.
#include "core/xts.h"

#include "binding/arguments.h"
#include "binding/bindings.h"

namespace qcow2::binding {
namespace {

// The largest cluster: no sector of an encrypted image is larger.
constexpr int64_t kMaxSectorSize = int64_t{1} << 21;

size_t sectorSize(Arguments& args, size_t index) {
  const int64_t size = args.integer(index, "sectorSize", kAesBlock, kMaxSectorSize);
  args.requireRange(size % kAesBlock == 0, "sectorSize", "a multiple of 16");
  return static_cast<size_t>(size);
}

napi_value expandTweaks(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const size_t sector_size = sectorSize(args, 1);
  const MutableBytes tweaks = args.bytes(0, "tweaks");
  const MutableBytes out = args.bytes(2, "out");
  args.requireValue(tweaks.size() % kAesBlock == 0, "tweaks", "must hold 16 bytes for each sector");
  // Dividing, because the product could overflow.
  args.requireValue(args.failed() || (out.size() % sector_size == 0 &&
                                      out.size() / sector_size == tweaks.size() / kAesBlock),
                    "out", "must hold sectorSize bytes for each tweak");
  if (args.failed()) return nullptr;
  xtsMasks(tweaks, sector_size, out);
  return undefined(env);
}

napi_value xorBuffers(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const MutableBytes target = args.bytes(0, "target");
  const MutableBytes mask = args.bytes(1, "mask");
  args.requireValue(target.size() == mask.size(), "mask", "must be as long as the target");
  if (args.failed()) return nullptr;
  xorInto(target, mask);
  return undefined(env);
}

napi_value finishCbc(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const size_t sector_size = sectorSize(args, 3);
  const MutableBytes blocks = args.bytes(0, "blocks");
  const MutableBytes ciphertext = args.bytes(1, "ciphertext");
  const MutableBytes ivs = args.bytes(2, "ivs");
  args.requireValue(args.failed() || blocks.size() % sector_size == 0, "blocks", "must be whole sectors");
  args.requireValue(ciphertext.size() == blocks.size(), "ciphertext", "must be as long as the blocks");
  args.requireValue(
      args.failed() || (ivs.size() % kAesBlock == 0 && ivs.size() / kAesBlock == blocks.size() / sector_size),
      "ivs", "must hold 16 bytes for each sector");
  if (args.failed()) return nullptr;
  cbcDecryptFinish(blocks, ciphertext, ivs, sector_size);
  return undefined(env);
}

napi_value fillPlain64(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const uint64_t first = args.natural(0, "firstSector");
  const uint64_t count = args.natural(1, "count");
  const MutableBytes out = args.bytes(2, "out");
  args.requireValue(out.size() % kAesBlock == 0 && out.size() / kAesBlock == count, "out",
                    "must hold 16 bytes for each sector");
  if (args.failed()) return nullptr;
  plain64(first, out);
  return undefined(env);
}

}  // namespace

bool initXts(napi_env env, napi_value exports) {
  return exportFunctions(env, exports,
                         {{"xtsMasks", expandTweaks},
                          {"xorInto", xorBuffers},
                          {"cbcDecryptFinish", finishCbc},
                          {"plain64", fillPlain64}});
}

}  // namespace qcow2::binding
