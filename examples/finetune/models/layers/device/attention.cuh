// Attention of encoders and decoders on a GPU, or on Thrust's host system.
#pragma once

#include <string>
#include <type_traits>

#include <sparsegrad/core/error.hpp>

#include "attention_backward.cuh"
#include "attention_forward.cuh"

namespace sparsegrad::finetune::device {

/// Throws ShapeError when the kernels have no room for heads of this size.
inline void require_attention_room(const HeadLayout& heads) {
  if (heads.head_size <= widest_head) return;
  throw ShapeError("attention on the GPU: heads of size " + std::to_string(heads.head_size) +
                   ", expected at most " + std::to_string(widest_head));
}

/// Attention's launches. Pattern: see attention_pattern.cuh; the probabilities are softmax(q k^T scale).
template <class System, class T, class Pattern>
class Attention {
 public:
  using Context = typename System::Context;
  using C = compute_t<T>;

  Attention(const HeadLayout& heads, C scale, const Pattern& pattern)
      : heads_(heads), scale_(scale), pattern_(pattern) {}

  /// Writes `out` [tokens, columns of the queries] and `log_sums` [heads, tokens].
  void forward(Context& ctx, const BatchArrays& batch, MatrixView<const T> qkv, MatrixView<T> out,
               C* log_sums) const {
    with_width([&](auto width) {
      using Kernel = AttentionForward<T, width(), Pattern>;
      launch(ctx, Kernel{tiles<width()>(by_rows(batch, qkv, Kernel::own), qkv, out), out, log_sums});
    });
  }
  /// The same of one sequence, whose keys and values k and v may be elsewhere.
  void forward(Context& ctx, const AttentionSequence<T>& sequence, MatrixView<const T> k,
               MatrixView<const T> v, MatrixView<const T> qkv, MatrixView<T> out) const {
    with_width([&](auto width) {
      using Kernel = AttentionForward<T, width(), Pattern>;
      const auto grid = AttentionGrid<T>::of_sequence(heads_, sequence, qkv, Kernel::own);
      launch(ctx, Kernel{tiles<width()>(grid, qkv, out, k, v), out, nullptr});
    });
  }
  /// Writes `d_qkv`, the gradient of qkv. `delta`: working memory [heads, tokens].
  void backward(Context& ctx, const BatchArrays& batch, MatrixView<const T> qkv, MatrixView<const T> out,
                const C* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv, C* delta) const {
    with_width([&](auto width) {
      using Queries = AttentionBackwardQueries<T, width(), Pattern>;
      launch(ctx, Queries{tiles<width()>(by_rows(batch, qkv, Queries::own), qkv, out, d_out, d_qkv), out,
                          log_sums, d_out, d_qkv, delta});
      using Keys = AttentionBackwardKeys<T, width(), Pattern>;
      const auto by_keys = AttentionGrid<T>::of_batch(heads_, batch, qkv, batch.longest, Keys::own, false);
      launch(ctx, Keys{tiles<width()>(by_keys, qkv, d_out, d_qkv), log_sums, delta, d_out, d_qkv});
    });
  }

 private:
  /// Calls f with the width of a kernel for these heads.
  template <class F>
  void with_width(const F& f) const {
    if (heads_.head_size <= 64) return f(std::integral_constant<int, 64>());
    f(std::integral_constant<int, 128>());
  }
  AttentionGrid<T> by_rows(const BatchArrays& batch, MatrixView<const T> qkv, index_t own) const {
    return AttentionGrid<T>::of_batch(heads_, batch, qkv, batch.longest * heads_.group, own,
                                      Pattern::later_see_more);
  }
  /// What a kernel begins with; `operands` are all that it reads or writes by rows.
  template <int Width, class... Operands>
  AttentionTiles<T, Width, Pattern> tiles(const AttentionGrid<T>& grid, const Operands&... operands) const {
    const bool in_packs =
        heads_.head_size * static_cast<index_t>(sizeof(T)) % 16 == 0 && (is_aligned(operands) && ...);
    return {grid, pattern_, scale_, in_packs};
  }
  template <class K>
  static void launch(Context& ctx, const K& kernel) {
    System::launch(ctx, kernel.blocks(), kernel);
  }

  HeadLayout heads_;
  C scale_;
  Pattern pattern_;
};

}  // namespace sparsegrad::finetune::device
