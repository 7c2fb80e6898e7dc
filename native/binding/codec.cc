// Decoding and encoding of clusters for JavaScript.
#include "core/codec.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/bindings.h"
#include "binding/codec_pool.h"
#include "binding/codec_work.h"

namespace qcow2::binding {
namespace {

constexpr int64_t kMinClusterSize = 512;
constexpr int64_t kMaxClusterSize = int64_t{1} << 21;
// Numbers for each job of decompressClusters: input offset, input length, output offset.
constexpr size_t kJobStride = 3;

using SharedPool = std::shared_ptr<CodecPool>;

bool makePool(napi_env env) {
  auto pool = std::make_unique<SharedPool>(std::make_shared<CodecPool>());
  const auto destroy = [](napi_env, void* data, void*) { delete static_cast<SharedPool*>(data); };
  if (napi_set_instance_data(env, pool.get(), destroy, nullptr) != napi_ok) return false;
  pool.release();
  return true;
}

Codec codecArgument(Arguments& args, size_t index) {
  const auto codec = static_cast<Codec>(args.integer(index, "codec", 0, 1));
  args.requireValue(args.failed() || hasCodec(codec), "codec", "was left out when the addon was built");
  return codec;
}

bool isClusterSize(uint64_t size) {
  return size >= kMinClusterSize && size <= kMaxClusterSize && (size & (size - 1)) == 0;
}

size_t clusterSizeArgument(Arguments& args, size_t index) {
  const int64_t size = args.integer(index, "clusterSize", kMinClusterSize, kMaxClusterSize);
  args.requireRange(args.failed() || isClusterSize(static_cast<uint64_t>(size)), "clusterSize",
                    "a power of two");
  return static_cast<size_t>(size);
}

void requireApart(Arguments& args, Bytes a, Bytes b, const char* name) {
  const std::less_equal<const unsigned char*> before;
  const bool apart = before(a.data() + a.size(), b.data()) || before(b.data() + b.size(), a.data());
  args.requireValue(a.size() == 0 || b.size() == 0 || apart, name, "must not share memory with the input");
}

DecodeJob oneJob(Arguments& args) {
  const MutableBytes in = args.bytes(1, "input");
  const MutableBytes out = args.bytes(2, "output");
  args.requireRange(isClusterSize(out.size()), "output.length", "a cluster size");
  requireApart(args, in, out, "output");
  return {in, out};
}

napi_value decodeNow(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  const Codec codec = codecArgument(args, 0);
  const DecodeJob job = oneJob(args);
  if (args.failed()) return nullptr;
  const SharedPool pool = codecPoolOf(env);
  const CodecPool::Lease context(*pool);
  return number(env, static_cast<double>(context->decode(codec, job.in, job.out)));
}

napi_value decodeOne(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(1, "input");
  args.requireFixedLength(2, "output");
  const Codec codec = codecArgument(args, 0);
  const DecodeJob job = oneJob(args);
  if (args.failed()) return nullptr;
  return Work::start(env, std::make_unique<DecodeOne>(codecPoolOf(env), codec, job),
                     "qcow2.decompressCluster", {args.value(1), args.value(2)});
}

// Whether a double is an offset that leaves room for `length` in `size` bytes.
bool fits(double offset, double length, size_t size) {
  const double end = static_cast<double>(size);
  // NaN fails every comparison.
  return offset >= 0 && length >= 0 && offset <= end && length <= end - offset &&
         static_cast<double>(static_cast<uint64_t>(offset)) == offset &&
         static_cast<double>(static_cast<uint64_t>(length)) == length;
}

// Copied, so that nothing that happens to the table later moves a checked offset.
std::vector<DecodeJob> takeJobs(Arguments& args, Span<double> table, Bytes in, MutableBytes out,
                                size_t cluster_size) {
  std::vector<DecodeJob> jobs;
  args.requireValue(table.size() % kJobStride == 0, "jobs", "must hold three numbers for each cluster");
  if (args.failed()) return jobs;
  jobs.reserve(table.size() / kJobStride);
  for (size_t at = 0; at < table.size(); at += kJobStride) {
    const double in_offset = table[at];
    const double in_length = table[at + 1];
    const double out_offset = table[at + 2];
    const bool inside = fits(in_offset, in_length, in.size()) &&
                        fits(out_offset, static_cast<double>(cluster_size), out.size());
    if (!inside) {
      args.requireRange(false, ("jobs[" + std::to_string(at) + "]").c_str(),
                        "the start of input offset, input length and output offset inside the buffers");
      return jobs;
    }
    jobs.push_back({in.subspan(static_cast<size_t>(in_offset), static_cast<size_t>(in_length)),
                    out.subspan(static_cast<size_t>(out_offset), cluster_size)});
  }
  return jobs;
}

napi_value decodeBatch(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(1, "input");
  args.requireFixedLength(3, "output");
  args.requireFixedLength(5, "results");
  const Codec codec = codecArgument(args, 0);
  const size_t cluster_size = clusterSizeArgument(args, 4);
  const MutableBytes in = args.bytes(1, "input");
  const Span<double> table = args.doubles(2, "jobs");
  const MutableBytes out = args.bytes(3, "output");
  const MutableBytes results = args.bytes(5, "results");
  requireApart(args, in, out, "output");
  requireApart(args, in, results, "results");
  std::vector<DecodeJob> jobs = takeJobs(args, table, in, out, cluster_size);
  args.requireValue(results.size() == jobs.size(), "results", "must have one element for each job");
  if (args.failed()) return nullptr;
  return Work::start(env, std::make_unique<DecodeBatch>(codecPoolOf(env), codec, std::move(jobs), results),
                     "qcow2.decompressClusters", {args.value(1), args.value(3), args.value(5)});
}

napi_value encodeBatch(napi_env env, napi_callback_info info) noexcept {
  Arguments args(env, info);
  args.requireFixedLength(2, "input");
  args.requireFixedLength(5, "output");
  args.requireFixedLength(6, "lengths");
  const Codec codec = codecArgument(args, 0);
  const int64_t level = args.integer(1, "level", 1, highestLevel(codec));
  const size_t cluster_size = clusterSizeArgument(args, 3);
  const int64_t limit = args.integer(4, "limit", 1, static_cast<int64_t>(cluster_size));
  const MutableBytes in = args.bytes(2, "input");
  const MutableBytes out = args.bytes(5, "output");
  const Span<double> lengths = args.doubles(6, "lengths");
  if (args.failed()) return nullptr;
  args.requireValue(in.size() % cluster_size == 0, "input", "must be whole clusters");
  const size_t count = in.size() / cluster_size;
  args.requireValue(lengths.size() == count, "lengths", "must have one element for each cluster");
  args.requireValue(out.size() / static_cast<size_t>(limit) >= count, "output",
                    "must have room for the limit of each cluster");
  requireApart(args, in, out, "output");
  requireApart(args, in, {reinterpret_cast<unsigned char*>(lengths.data()), lengths.size() * sizeof(double)},
               "lengths");
  if (args.failed()) return nullptr;
  const EncodeOptions options = {codec, static_cast<int>(level), cluster_size, static_cast<size_t>(limit)};
  return Work::start(env, std::make_unique<EncodeBatch>(codecPoolOf(env), options, in, out, lengths),
                     "qcow2.compressClusters", {args.value(2), args.value(5), args.value(6)});
}

bool exportCodecs(napi_env env, napi_value exports) {
  napi_value codecs;
  return napi_create_object(env, &codecs) == napi_ok &&
         napi_set_named_property(env, codecs, "deflate", boolean(env, hasCodec(Codec::kDeflate))) ==
             napi_ok &&
         napi_set_named_property(env, codecs, "zstd", boolean(env, hasCodec(Codec::kZstd))) == napi_ok &&
         napi_set_named_property(env, exports, "codecs", codecs) == napi_ok;
}

}  // namespace

// The contexts live as the environment's instance data.
SharedPool codecPoolOf(napi_env env) {
  void* pool = nullptr;
  napi_get_instance_data(env, &pool);
  return *static_cast<SharedPool*>(pool);
}

bool initCodec(napi_env env, napi_value exports) {
  return makePool(env) && exportCodecs(env, exports) &&
         exportFunctions(env, exports,
                         {{"decompressCluster", decodeNow},
                          {"decompressClusterAsync", decodeOne},
                          {"decompressClusters", decodeBatch},
                          {"compressClusters", encodeBatch}});
}

}  // namespace qcow2::binding
