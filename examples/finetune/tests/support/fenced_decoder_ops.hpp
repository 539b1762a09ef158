// The decoder's kernels on memory that is closed to the host but for the time in which they run.
#pragma once

#include <span>
#include <utility>

#include "models/layers/device/decoder_ops.cuh"
#include "support/fenced_backend.hpp"

namespace sparsegrad::finetune {

template <class Base>
struct DecoderOps<sparsegrad::test::Fenced<Base>> {
  using Backend = sparsegrad::test::Fenced<Base>;
  using Context = typename Backend::Context;

  using Ops = DeviceDecoderOps<Base, PlacedBatch<Backend>>;

  template <class T>
  static index_t scratch_bytes(index_t tokens, index_t width) {
    return Ops::template scratch_bytes<T>(tokens, width);
  }
  template <class T>
  static index_t attention_work(Context& ctx, const CausalShape& shape, index_t tokens, index_t longest) {
    return Ops::template attention_work<T>(ctx, shape, tokens, longest);
  }

#define SPARSEGRAD_TEST_FENCED(op)                   \
  template <class T, class... A>                     \
  static void op(Context& ctx, A&&... a) {           \
    const sparsegrad::test::Fence::Gate gate;        \
    Ops::template op<T>(ctx, std::forward<A>(a)...); \
  }
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
#undef SPARSEGRAD_TEST_FENCED
};

}  // namespace sparsegrad::finetune
