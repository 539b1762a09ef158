// The decoder's kernels on memory that is closed to the host but for the time in which they run.
#pragma once

#include "models/layers/device/decoder_ops.cuh"
#include "support/fenced_ops.hpp"

namespace sparsegrad::finetune {

template <class Base>
struct DecoderOps<sparsegrad::test::Fenced<Base>>
    : test::FencedSizes<DeviceDecoderOps<Base, PlacedBatch<sparsegrad::test::Fenced<Base>>>,
                        typename sparsegrad::test::Fenced<Base>::Context> {
  using Backend = sparsegrad::test::Fenced<Base>;
  using Context = typename Backend::Context;

  using Ops = DeviceDecoderOps<Base, PlacedBatch<Backend>>;

  SPARSEGRAD_TEST_FENCED(embed_forward)
  SPARSEGRAD_TEST_FENCED(embed_backward)
  SPARSEGRAD_TEST_FENCED(add_rms_norm_forward)
  SPARSEGRAD_TEST_FENCED(rms_norm_again)
  SPARSEGRAD_TEST_FENCED(rms_norm_backward)
  SPARSEGRAD_TEST_FENCED(swiglu_forward)
  SPARSEGRAD_TEST_FENCED(swiglu_backward)
  SPARSEGRAD_TEST_FENCED(rope_forward)
  SPARSEGRAD_TEST_FENCED(rope_backward)
  SPARSEGRAD_TEST_FENCED(column_sums)
  SPARSEGRAD_TEST_FENCED(attention_forward)
  SPARSEGRAD_TEST_FENCED(attention_after)
  SPARSEGRAD_TEST_FENCED(attention_backward)
  SPARSEGRAD_TEST_FENCED(take_rows)
  SPARSEGRAD_TEST_FENCED(put_rows)
  SPARSEGRAD_TEST_FENCED(cross_entropy)
};

}  // namespace sparsegrad::finetune
