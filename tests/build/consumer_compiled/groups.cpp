// A step of a group in float and in bfloat16, as units of an engine take it.
#include <sparsegrad/sparsegrad.hpp>

using namespace sparsegrad;

GroupReport step(backend::Cpu::Context& ctx, SparseGradGroup<float>& group) {
  return group.step(ctx, {.learning_rate = 0.1});
}

GroupReport step(backend::Cpu::Context& ctx, SparseGradGroup<bfloat16>& group) {
  return group.step(ctx, {.learning_rate = 0.1});
}
