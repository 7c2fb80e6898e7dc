// Memory of exactly the size asked for, so that the sanitizers see a single byte too much.
#ifndef QCOW2_TEST_MEMORY_H_
#define QCOW2_TEST_MEMORY_H_

#include <cstring>
#include <memory>

#include "core/span.h"

namespace qcow2::test {

template <typename T>
class Memory {
 public:
  explicit Memory(size_t size) : data_(new T[size]()), size_(size) {}
  Span<T> view() const { return {data_.get(), size_}; }
  operator Span<T>() const { return view(); }
  operator Span<const T>() const { return view(); }
  T& operator[](size_t index) const { return view()[index]; }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<T[]> data_;
  size_t size_;
};

using ByteMemory = Memory<unsigned char>;

}  // namespace qcow2::test

#endif  // QCOW2_TEST_MEMORY_H_
