// What the library `compiled` holds, for one backend: the classes that units otherwise compile for themselves.
#pragma once

#include "../sparse_grad_group.hpp"
#include "../sparse_grad_linear.hpp"
#include "../tucker_basis.hpp"

/// Declares (`prefix` extern) or makes (`prefix` empty) the instantiations for float and bfloat16 on one
/// backend. Members that are templates themselves, and other types, are compiled where they are used.
#define SPARSEGRAD_COMPILED_CLASSES(prefix, B)                              \
  namespace sparsegrad::SPARSEGRAD_ABI {                                    \
  prefix template class TuckerBasis<float, B>;                              \
  prefix template class SparseGradLinear<float, B>;                         \
  prefix template class GroupBases<float, B, SparseAdam<float, B>>;         \
  prefix template class SparseGradGroup<float, B, SparseAdam<float, B>>;    \
  prefix template class SparseGradLinear<bfloat16, B>;                      \
  prefix template class GroupBases<bfloat16, B, SparseAdam<float, B>>;      \
  prefix template class SparseGradGroup<bfloat16, B, SparseAdam<float, B>>; \
  }
