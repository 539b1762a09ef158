// The encoder's kernels on memory that is closed to the host but for the time in which they run.
#pragma once

#include "models/layers/device/layer_ops.cuh"
#include "support/fenced_ops.hpp"

namespace sparsegrad::finetune {

template <class Base>
struct LayerOps<sparsegrad::test::Fenced<Base>>
    : test::FencedSizes<DeviceLayerOps<Base, PlacedBatch<sparsegrad::test::Fenced<Base>>>,
                        typename sparsegrad::test::Fenced<Base>::Context> {
  using Backend = sparsegrad::test::Fenced<Base>;
  using Context = typename Backend::Context;

  using Ops = DeviceLayerOps<Base, PlacedBatch<Backend>>;
  static constexpr index_t adamw_chunk = Ops::adamw_chunk;

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
};

}  // namespace sparsegrad::finetune
