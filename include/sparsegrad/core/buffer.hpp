// Buffer: memory that a library object owns, where the backend computes.
#pragma once

#include <cstddef>
#include <utility>

#include "backend.hpp"
#include "config.hpp"
#include "view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Owned array of elements of a trivial type in a backend's memory.
///
/// Move-only. Allocates only in the constructor and in `resize`; the elements start as zeros. The
/// memory comes from the context at hand and is returned to the same source, even when that context
/// no longer exists.
template <class T, Backend B>
class Buffer {
 public:
  /// An empty array.
  Buffer() = default;
  /// `size` zeros. Throws what the backend's memory throws when there is none.
  Buffer(typename B::Context& ctx, index_t size) : Buffer() {  // delegates: the destructor runs on a throw
    resize(ctx, size);
  }
  ~Buffer() { release(); }
  /// Takes the memory over; `other` is empty afterwards.
  Buffer(Buffer&& other) noexcept
      : memory_(other.memory_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  /// Releases its own memory and takes over that of `other`, which is empty afterwards.
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      memory_ = other.memory_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  /// Not copyable.
  Buffer(const Buffer&) = delete;
  /// Not copyable.
  Buffer& operator=(const Buffer&) = delete;

  /// Becomes `size` zeros. Memory of that size is kept; otherwise it is replaced.
  /// Strong exception guarantee: when there is no memory for the new size, the old elements stay.
  /// Call `release` first where they are not wanted, or the old and the new memory exist side by
  /// side.
  void resize(typename B::Context& ctx, index_t size) {
    if (size == size_) {
      if (size_ > 0) B::template zero<T>(ctx, data_, size_);
      return;
    }
    Buffer replacement;
    if (size > 0) {
      replacement.memory_ = B::memory(ctx);
      replacement.data_ =
          reinterpret_cast<T*>(replacement.memory_.allocate(static_cast<std::size_t>(size) * sizeof(T)));
      replacement.size_ = size;
      B::template zero<T>(ctx, replacement.data_, size);
    }
    *this = std::move(replacement);
  }

  /// Returns the memory; the array is empty afterwards.
  void release() noexcept {
    if (data_ != nullptr) memory_.deallocate(reinterpret_cast<std::byte*>(data_));
    data_ = nullptr;
    size_ = 0;
  }

  /// The first element; null when empty.
  T* data() { return data_; }
  /// The first element; null when empty.
  const T* data() const { return data_; }
  /// Number of elements.
  index_t size() const { return size_; }
  /// Bytes of memory held.
  index_t bytes() const { return size_ * static_cast<index_t>(sizeof(T)); }
  /// Whether there are no elements.
  bool empty() const { return size_ == 0; }

  /// The first rows * cols elements as a contiguous matrix.
  MatrixView<T> matrix(index_t rows, index_t cols) { return MatrixView<T>(data_, rows, cols); }
  /// The first rows * cols elements as a contiguous matrix.
  MatrixView<const T> matrix(index_t rows, index_t cols) const {
    return MatrixView<const T>(data_, rows, cols);
  }

 private:
  [[no_unique_address]] typename B::Memory memory_{};
  T* data_ = nullptr;
  index_t size_ = 0;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
