// The codecs over memory of exact size: what goes in comes out, and no input makes them read or write past
// it.
#include "core/codec.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "core/codec_pool.h"
#include "test/check.h"
#include "test/memory.h"

// What memory holds that is given out without initialising it: this value, again and again.
static uint16_t left_in_memory = 0;

void* operator new(size_t size, const std::nothrow_t&) noexcept {
  void* memory = ::operator new(size);
  for (size_t at = 0; at + sizeof left_in_memory <= size; at += sizeof left_in_memory) {
    std::memcpy(static_cast<unsigned char*>(memory) + at, &left_in_memory, sizeof left_in_memory);
  }
  return memory;
}

namespace qcow2 {
namespace {

using test::ByteMemory;
using test::Random;

constexpr Codec kCodecs[] = {Codec::kDeflate, Codec::kZstd};

// The first `noise` bytes are random, the rest repeats them a few at a time.
ByteMemory makeCluster(uint64_t seed, size_t size, size_t noise) {
  ByteMemory cluster(size);
  Random random(seed);
  for (size_t at = 0; at < size; ++at) {
    cluster[at] = at < noise || at < 8 ? static_cast<unsigned char>(random.next()) : cluster[at % 8];
  }
  return cluster;
}

bool same(Bytes a, Bytes b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0; }

// The stream alone, in memory of its own size; empty when it does not fit.
ByteMemory encoded(CodecContext& context, Codec codec, int level, Bytes cluster) {
  ByteMemory room(cluster.size() - 1);
  const size_t length = context.encode(codec, level, cluster, room);
  CHECK(length <= room.size());
  ByteMemory stream(std::min(length, room.size()));
  std::memcpy(stream.view().data(), room.view().data(), stream.size());
  return stream;
}

TEST(givesBackWhatWasEncoded) {
  CodecContext context;
  for (const Codec codec : kCodecs) {
    // Levels up and down: a context serves them in any order.
    const int levels[] = {1, highestLevel(codec), 3, 3};
    for (const int level : levels) {
      for (size_t size = 512; size <= size_t{1} << 18; size *= 8) {
        const ByteMemory cluster = makeCluster(size, size, size / 2);
        const ByteMemory stream = encoded(context, codec, level, cluster);
        CHECK(stream.size() != kDoesNotFit);
        ByteMemory again(size);
        CHECK(context.decode(codec, stream, again) == DecodeResult::kOk);
        CHECK(same(again, cluster));
      }
    }
  }
}

TEST(encodesAlikeInWhateverMemory) {
  // What repeats is far away, so a window that is too small shows.
  ByteMemory cluster = makeCluster(6, 8192, 4096);
  std::memcpy(cluster.view().data() + 4096, cluster.view().data(), 4096);
  for (const Codec codec : kCodecs) {
    CodecContext first;
    const ByteMemory expected = encoded(first, codec, 1, cluster);
    CHECK(expected.size() != kDoesNotFit);
    for (left_in_memory = 1; left_in_memory <= 20; ++left_in_memory) {
      CodecContext context;
      CHECK(same(encoded(context, codec, 1, cluster), expected));
    }
    left_in_memory = 0;
  }
}

TEST(encodesAlikeWhereverTheContextLies) {
  // Short periods, so that the first bytes come again at once.
  constexpr size_t kContexts = 48;
  constexpr size_t kSize = 512;
  std::vector<CodecContext> contexts(kContexts);
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    Random random(seed);
    const size_t period = 1 + random.below(12);
    ByteMemory cluster(kSize);
    for (size_t at = 0; at < kSize; ++at) {
      cluster[at] = at < period ? static_cast<unsigned char>('0' + random.below(10)) : cluster[at - period];
    }
    const ByteMemory expected = encoded(contexts[0], Codec::kDeflate, 1, cluster);
    for (CodecContext& context : contexts) {
      CHECK(same(encoded(context, Codec::kDeflate, 1, cluster), expected));
    }
  }
}

TEST(encodesAlikeWhateverCameBefore) {
  for (const Codec codec : kCodecs) {
    const int levels[] = {1, 3, highestLevel(codec)};
    for (const int level : levels) {
      CodecContext used;
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const size_t size = size_t{512} << (seed % 8);
        const ByteMemory cluster = makeCluster(seed, size, size / (1 + seed % 3));
        CodecContext fresh;
        CHECK(same(encoded(used, codec, level, cluster), encoded(fresh, codec, level, cluster)));
      }
    }
  }
}

TEST(saysWhenItDoesNotFit) {
  CodecContext context;
  const ByteMemory noise = makeCluster(1, 4096, 4096);
  const ByteMemory text = makeCluster(2, 4096, 100);
  for (const Codec codec : kCodecs) {
    CHECK_EQUAL(encoded(context, codec, 1, noise).size(), kDoesNotFit);
    const size_t length = encoded(context, codec, 1, text).size();
    const size_t rooms[] = {1, length / 2, length - 1};
    for (const size_t room : rooms) {
      ByteMemory out(room);
      CHECK_EQUAL(context.encode(codec, 1, text, out), kDoesNotFit);
    }
  }
}

TEST(tellsShortFromLong) {
  CodecContext context;
  const ByteMemory cluster = makeCluster(3, 4096, 1000);
  for (const Codec codec : kCodecs) {
    const ByteMemory stream = encoded(context, codec, 1, cluster);
    ByteMemory larger(8192);
    ByteMemory smaller(2048);
    CHECK(context.decode(codec, stream, larger) == DecodeResult::kTooShort);
    CHECK(context.decode(codec, stream, smaller) == DecodeResult::kTooLong);
    CHECK(context.decode(codec, Bytes(), smaller) != DecodeResult::kOk);
  }
}

TEST(standsCutAndDamagedStreams) {
  CodecContext context;
  Random random(4);
  const ByteMemory cluster = makeCluster(5, 4096, 1500);
  for (const Codec codec : kCodecs) {
    const ByteMemory stream = encoded(context, codec, 1, cluster);
    for (size_t length = 0; length < stream.size(); ++length) {
      ByteMemory cut(length);
      if (length > 0) std::memcpy(cut.view().data(), stream.view().data(), length);
      ByteMemory out(cluster.size());
      CHECK(context.decode(codec, cut, out) != DecodeResult::kOk);
    }
    for (int round = 0; round < 5000; ++round) {
      ByteMemory damaged(stream.size());
      std::memcpy(damaged.view().data(), stream.view().data(), stream.size());
      for (uint64_t flips = 1 + random.below(4); flips > 0; --flips) {
        damaged[random.below(damaged.size())] = static_cast<unsigned char>(random.next());
      }
      ByteMemory out(cluster.size());
      context.decode(codec, damaged, out);
    }
    // The context is as good as before.
    ByteMemory out(cluster.size());
    CHECK(context.decode(codec, stream, out) == DecodeResult::kOk);
    CHECK(same(out, cluster));
  }
}

TEST(lendsContextsToThreads) {
  CodecPool pool;
  std::vector<char> good(8, 0);
  std::vector<std::thread> threads;
  for (size_t index = 0; index < good.size(); ++index) {
    threads.emplace_back([&pool, &good, index] {
      bool all = true;
      for (uint64_t round = 0; round < 50; ++round) {
        const CodecPool::Lease context(pool);
        const Codec codec = kCodecs[(index + round) % 2];
        const ByteMemory cluster = makeCluster(100 * index + round, 4096, 500);
        const ByteMemory stream = encoded(*context, codec, 1, cluster);
        ByteMemory out(cluster.size());
        all = all && context->decode(codec, stream, out) == DecodeResult::kOk && same(out, cluster);
      }
      good[index] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const char all : good) CHECK(all);
}

}  // namespace
}  // namespace qcow2
