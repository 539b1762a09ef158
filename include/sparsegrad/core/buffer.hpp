// Buffer: memory that a library object owns, where the backend computes.
#pragma once

#include <cstddef>
#include <utility>

#include "backend.hpp"
#include "config.hpp"
#include "view.hpp"

namespace sparsegrad {

/// Owned array of `size()` elements of a trivial type in the backend's memory: that of the context at hand when it was
/// allocated, to which it goes back, also when that context is gone. Move-only. Allocates in the constructor and in
/// `resize` alone; the elements start as zeros.
template <class T, Backend B>
class Buffer {
 public:
  Buffer() = default;
  /// By way of Buffer(), so that the destructor runs when `resize` throws.
  Buffer(typename B::Context& ctx, index_t size) : Buffer() { resize(ctx, size); }
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept
      : memory_(other.memory_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      memory_ = other.memory_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  /// Replaces the memory unless the size is already `size`; then only sets every element to zero. When there is no
  /// memory for the new size, the old elements are still there; release first where they are not wanted.
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

  void release() noexcept {
    if (data_ != nullptr) memory_.deallocate(reinterpret_cast<std::byte*>(data_));
    data_ = nullptr;
    size_ = 0;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  index_t size() const { return size_; }
  index_t bytes() const { return size_ * static_cast<index_t>(sizeof(T)); }
  bool empty() const { return size_ == 0; }

  /// The first rows * cols elements as a contiguous matrix.
  MatrixView<T> matrix(index_t rows, index_t cols) { return MatrixView<T>(data_, rows, cols); }
  MatrixView<const T> matrix(index_t rows, index_t cols) const {
    return MatrixView<const T>(data_, rows, cols);
  }

 private:
  [[no_unique_address]] typename B::Memory memory_{};
  T* data_ = nullptr;
  index_t size_ = 0;
};

}  // namespace sparsegrad
