// GradientMemory: one array in which several layers' gradients take turns.
#pragma once

#include <memory>
#include <string>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/error.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Gradient memory that layers share, one at a time.
///
/// A layer's turn begins with its first backward (or `add`, `core`, `select`) and ends with its
/// `clear`. In between the same calls of the other layers throw StateError. Grows to the largest
/// need of the layers that use it. Example: 24 matrices of 768 x 3072 floats need 226 MB for their
/// gradients, or 9.4 MB in turns.
template <class C, Backend B>
class GradientMemory {
 public:
  /// Number of elements held.
  index_t size() const { return memory_.size(); }
  /// Bytes of backend memory held.
  index_t bytes() const { return memory_.bytes(); }
  /// Whether a gradient is held in it.
  bool in_use() const { return in_use_; }

  /// Frees what lies beyond `count` elements; does nothing in the middle of a turn. `count` must be
  /// as many as the largest CoreGradient::element_count() of the layers that use the memory.
  void shrink(typename B::Context& ctx, index_t count) {
    if (in_use_ || count >= memory_.size()) return;
    memory_.release();
    memory_.resize(ctx, count);
  }

 private:
  template <class, Backend>
  friend class CoreGradient;

  /// Ends the turn, of a memory that lives until then.
  struct End {
    std::shared_ptr<GradientMemory> owner;
    void operator()(GradientMemory* memory) const noexcept { memory->in_use_ = false; }
  };
  using Turn = std::unique_ptr<GradientMemory, End>;

  /// `name` of the layer whose turn it is lives as long as the turn.
  static Turn begin(const std::shared_ptr<GradientMemory>& memory, const std::string& name) {
    if (memory->in_use_) {
      throw StateError("the shared gradient memory holds " + memory->held() +
                       ": select that layer's entries (or clear it) before the next layer's backward");
    }
    memory->in_use_ = true;
    memory->holder_ = &name;
    return Turn(memory.get(), End{memory});
  }
  void require_room(index_t count) const {
    if (count > memory_.size() && in_use_) {
      throw StateError("the shared gradient memory of " + std::to_string(memory_.size()) +
                       " elements must grow to " + std::to_string(count) + ", but holds " + held() +
                       "; select that layer's entries (or clear it) first");
    }
  }
  std::string held() const {
    return holder_->empty() ? "another layer's gradient" : "the gradient of " + *holder_;
  }
  void grow(typename B::Context& ctx, index_t count) {
    if (count > memory_.size()) memory_.resize(ctx, count);
  }

  Buffer<C, B> memory_;
  bool in_use_ = false;
  const std::string* holder_ = nullptr;  ///< name of the layer whose turn it is, while in use
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
