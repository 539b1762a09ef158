// Scratch: the one place from which temporary memory comes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "../core/config.hpp"
#include "../core/error.hpp"
#include "../core/view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

/// Memory with `std::byte* allocate(bytes)`, which throws where there is none, and `deallocate(p)`,
/// which does not.
///
/// Stack of temporary memory. A Frame takes pieces and gives them all back when it ends; frames
/// nest. A demand above the reserve is met by further blocks, which the end of the outermost frame
/// joins into one, so that a computation allocates nothing when it is repeated: what is once run
/// can then stand in a CUDA graph. Not for use by several threads at once.
template <class Memory>
class BasicScratch {
 public:
  explicit BasicScratch(Memory memory = Memory()) : memory_(memory) {}
  ~BasicScratch() { release(); }
  BasicScratch(const BasicScratch&) = delete;
  BasicScratch& operator=(const BasicScratch&) = delete;

  /// Makes at least `bytes` available without a further allocation. Throws ValueError when
  /// bytes < 0.
  void reserve(index_t bytes) {
    if (bytes < 0) throw ValueError("scratch memory of " + std::to_string(bytes) + " bytes, expected >= 0");
    const auto wanted = static_cast<std::size_t>(bytes);
    if (depth_ == 0 && wanted > capacity_of(0)) reset_to(wanted);
    peak_ = (std::max)(peak_, wanted);
  }

  index_t bytes() const {
    std::size_t sum = 0;
    for (const Block& block : blocks_)
      sum += block.size;
    return static_cast<index_t>(sum);
  }

  /// The most bytes that frames held at a time since the last `forget_most_used`: about the part of
  /// the reserve that is in physical memory.
  index_t most_used() const { return static_cast<index_t>(most_used_); }
  void forget_most_used() { most_used_ = total_; }

  /// Uninitialised, aligned to 64 bytes, until the innermost open frame ends: for allocators, which
  /// have no frame at hand.
  std::byte* take(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment +
            alignment;  // never an empty piece: distinct addresses
    while (used_ + bytes > capacity_of(block_)) {
      if (block_ + 1 < blocks_.size()) {
        ++block_;
      } else {
        const std::size_t size = (std::max)(bytes, blocks_.empty() ? bytes : blocks_.back().size);
        add_block(size);
        block_ = blocks_.size() - 1;
      }
      used_ = 0;
    }
    std::byte* piece = blocks_[block_].memory + used_;
    used_ += bytes;
    total_ += bytes;
    peak_ = (std::max)(peak_, total_);
    most_used_ = (std::max)(most_used_, total_);
    return piece;
  }

  class Frame {
   public:
    explicit Frame(BasicScratch& scratch)
        : scratch_(scratch), block_(scratch.block_), used_(scratch.used_), total_(scratch.total_) {
      ++scratch_.depth_;
    }
    ~Frame() {
      scratch_.block_ = block_;
      scratch_.used_ = used_;
      scratch_.total_ = total_;
      --scratch_.depth_;
      if (scratch_.depth_ == 0) scratch_.join();
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
    BasicScratch& scratch_;
    std::size_t block_, used_, total_;
  };

 private:
  static constexpr std::size_t alignment = 64;

  struct Block {
    std::byte* memory = nullptr;
    std::size_t size = 0;
  };

  std::size_t capacity_of(std::size_t block) const {
    return block < blocks_.size() ? blocks_[block].size : 0;
  }

  void release() noexcept {
    for (const Block& block : blocks_)
      memory_.deallocate(block.memory);
    blocks_.clear();
  }

  void add_block(std::size_t bytes) {
    blocks_.reserve(blocks_.size() + 1);  // so that nothing throws once there is memory
    blocks_.push_back({memory_.allocate(bytes), bytes});
  }

  /// Where there is no memory for one block there are none then: the next frame asks again, and
  /// throws.
  void join() noexcept {
    if (blocks_.size() < 2 || total_ != 0) return;
    try {
      reset_to(peak_);
    } catch (...) {
      block_ = 0;
    }
  }

  void reset_to(std::size_t bytes) {
    release();
    block_ = 0;
    used_ = 0;
    add_block(bytes);
  }

  Memory memory_;
  std::vector<Block> blocks_;
  std::size_t block_ = 0;  ///< block in use
  std::size_t used_ = 0;   ///< bytes used in it
  std::size_t total_ = 0;  ///< bytes taken by all open frames
  std::size_t peak_ = 0;   ///< largest total or reserve so far
  std::size_t most_used_ = 0;
  int depth_ = 0;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
