// The encoder's kernels on memory that is closed to the host but for the time in which they run.
#pragma once

#include <span>
#include <utility>

#include "models/layers/device/layer_ops.cuh"
#include "support/fenced_backend.hpp"

namespace sparsegrad::finetune {

template <class Base>
struct LayerOps<sparsegrad::test::Fenced<Base>> {
  using Backend = sparsegrad::test::Fenced<Base>;
  using Context = typename Backend::Context;

  using Ops = DeviceLayerOps<Base, PlacedBatch<Backend>>;
  static constexpr index_t adamw_chunk = Ops::adamw_chunk;

  template <class T>
  static index_t scratch_bytes(index_t tokens, index_t width) {
    return Ops::template scratch_bytes<T>(tokens, width);
  }
  template <class T>
  static index_t attention_work(Context& ctx, const AttentionShape& shape, index_t tokens, index_t longest) {
    return Ops::template attention_work<T>(ctx, shape, tokens, longest);
  }

#define SPARSEGRAD_TEST_FENCED(op)                   \
  template <class T, class... A>                     \
  static void op(Context& ctx, A&&... a) {           \
    const sparsegrad::test::Fence::Gate gate;        \
    Ops::template op<T>(ctx, std::forward<A>(a)...); \
  }
  SPARSEGRAD_TEST_FENCED(embeddings_forward)
  SPARSEGRAD_TEST_FENCED(embeddings_backward)
  SPARSEGRAD_TEST_FENCED(residual_norm_forward)
  SPARSEGRAD_TEST_FENCED(residual_norm_backward)
  SPARSEGRAD_TEST_FENCED(gelu_forward)
  SPARSEGRAD_TEST_FENCED(gelu_backward)
  SPARSEGRAD_TEST_FENCED(column_sums)
  SPARSEGRAD_TEST_FENCED(attention_forward)
  SPARSEGRAD_TEST_FENCED(attention_backward)
  SPARSEGRAD_TEST_FENCED(take_first)
  SPARSEGRAD_TEST_FENCED(put_first)
  SPARSEGRAD_TEST_FENCED(tanh_forward)
  SPARSEGRAD_TEST_FENCED(tanh_backward)
  SPARSEGRAD_TEST_FENCED(apply_mask)
  SPARSEGRAD_TEST_FENCED(adamw)
  SPARSEGRAD_TEST_FENCED(sums_of_squares)
#undef SPARSEGRAD_TEST_FENCED
};

}  // namespace sparsegrad::finetune
