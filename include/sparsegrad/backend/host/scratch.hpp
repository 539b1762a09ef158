// Scratch: the one place from which temporary memory comes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "../../core/config.hpp"
#include "../../core/view.hpp"

namespace sparsegrad::backend::host {

inline constexpr std::size_t alignment = 64;

struct AlignedDelete {
  void operator()(std::byte* p) const noexcept { ::operator delete[](p, std::align_val_t{alignment}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

inline AlignedBytes aligned_bytes(std::size_t count) {
  return AlignedBytes(static_cast<std::byte*>(::operator new[](count, std::align_val_t{alignment})));
}

/// Stack of temporary memory. A Frame takes pieces and gives them all back when it ends; frames nest.
/// A demand above the reserve is met by further blocks, which the end of the outermost frame joins into one,
/// so that a repeated computation allocates nothing. Not for use by several threads at once.
class Scratch {
 public:
  /// Makes at least `bytes` available without a further allocation.
  void reserve(index_t bytes) {
    const auto wanted = static_cast<std::size_t>(bytes);
    if (depth_ == 0 && wanted > capacity_of(0)) reset_to(wanted);
    peak_ = std::max(peak_, wanted);
  }

  index_t bytes() const {
    std::size_t sum = 0;
    for (const Block& block : blocks_)
      sum += block.size;
    return static_cast<index_t>(sum);
  }

  /// The most bytes that frames held at a time since the last `forget_most_used`: about the part of the reserve
  /// that is in physical memory.
  index_t most_used() const { return static_cast<index_t>(most_used_); }
  void forget_most_used() { most_used_ = total_; }

  class Frame {
   public:
    explicit Frame(Scratch& scratch)
        : scratch_(scratch), block_(scratch.block_), used_(scratch.used_), total_(scratch.total_) {
      ++scratch_.depth_;
    }
    ~Frame() {
      scratch_.block_ = block_;
      scratch_.used_ = used_;
      scratch_.total_ = total_;
      --scratch_.depth_;
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

    /// `count` elements, uninitialised, aligned to 64 bytes.
    template <class T>
    T* take(index_t count) {
      return reinterpret_cast<T*>(scratch_.take(static_cast<std::size_t>(count) * sizeof(T)));
    }
    template <class T>
    MatrixView<T> matrix(index_t rows, index_t cols) {
      return MatrixView<T>(take<T>(rows * cols), rows, cols);
    }

   private:
    Scratch& scratch_;
    std::size_t block_, used_, total_;
  };

 private:
  struct Block {
    AlignedBytes memory;
    std::size_t size = 0;
  };

  std::size_t capacity_of(std::size_t block) const {
    return block < blocks_.size() ? blocks_[block].size : 0;
  }

  void reset_to(std::size_t bytes) {
    blocks_.clear();
    blocks_.push_back({aligned_bytes(bytes), bytes});
    block_ = 0;
    used_ = 0;
  }

  std::byte* take(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment +
            alignment;  // never an empty piece: distinct addresses
    if (total_ == 0 && blocks_.size() > 1) reset_to(peak_);
    while (used_ + bytes > capacity_of(block_)) {
      if (block_ + 1 < blocks_.size()) {
        ++block_;
      } else {
        const std::size_t size = std::max(bytes, blocks_.empty() ? bytes : blocks_.back().size);
        blocks_.push_back({aligned_bytes(size), size});
        block_ = blocks_.size() - 1;
      }
      used_ = 0;
    }
    std::byte* piece = blocks_[block_].memory.get() + used_;
    used_ += bytes;
    total_ += bytes;
    peak_ = std::max(peak_, total_);
    most_used_ = std::max(most_used_, total_);
    return piece;
  }

  std::vector<Block> blocks_;
  std::size_t block_ = 0;  ///< block in use
  std::size_t used_ = 0;   ///< bytes used in it
  std::size_t total_ = 0;  ///< bytes taken by all open frames
  std::size_t peak_ = 0;   ///< largest total or reserve so far
  std::size_t most_used_ = 0;
  int depth_ = 0;
};

}  // namespace sparsegrad::backend::host
