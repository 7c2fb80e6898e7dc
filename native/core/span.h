// A view of memory that knows its length. Slicing is always checked; indexing is checked in sanitizer builds.
#ifndef QCOW2_CORE_SPAN_H_
#define QCOW2_CORE_SPAN_H_

#include <cstddef>
#include <cstdlib>
#include <type_traits>

namespace qcow2 {

template <typename T>
class Span {
 public:
  constexpr Span() = default;
  constexpr Span(T* data, size_t size) : data_(data), size_(size) {}

  // A view for writing is also one for reading.
  template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T>>>
  constexpr Span(const Span<U>& other) : data_(other.data()), size_(other.size()) {}

  constexpr T* data() const { return data_; }
  constexpr size_t size() const { return size_; }

  T& operator[](size_t index) const {
#if defined(__SANITIZE_ADDRESS__) || !defined(NDEBUG)
    if (index >= size_) std::abort();
#endif
    return data_[index];
  }

  Span subspan(size_t offset, size_t length) const {
    if (offset > size_ || length > size_ - offset) std::abort();
    return Span(data_ + offset, length);
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

using Bytes = Span<const unsigned char>;
using MutableBytes = Span<unsigned char>;

}  // namespace qcow2

#endif  // QCOW2_CORE_SPAN_H_
