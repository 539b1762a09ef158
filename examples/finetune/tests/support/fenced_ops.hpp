// What a model's kernels behind a fence have in common: SPARSEGRAD_TEST_FENCED(op) in a class that names `Ops`, the
// kernels, and `Context`.
#pragma once

#include <utility>

#include "support/fenced_backend.hpp"

namespace sparsegrad::finetune::test {

/// The sizes that are asked for before anything runs.
template <class Ops, class Context>
struct FencedSizes {
  template <class T>
  static index_t scratch_bytes(index_t tokens, index_t width) {
    return Ops::template scratch_bytes<T>(tokens, width);
  }
  template <class T, class Shape>
  static index_t attention_work(Context& ctx, const Shape& shape, index_t tokens, index_t longest) {
    return Ops::template attention_work<T>(ctx, shape, tokens, longest);
  }
};

}  // namespace sparsegrad::finetune::test

#define SPARSEGRAD_TEST_FENCED(op)                   \
  template <class T, class... A>                     \
  static void op(Context& ctx, A&&... a) {           \
    const sparsegrad::test::Fence::Gate gate;        \
    Ops::template op<T>(ctx, std::forward<A>(a)...); \
  }
