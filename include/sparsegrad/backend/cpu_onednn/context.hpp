// The context of backend::CpuOneDnn: a HostContext with the matmuls that it has made.
#pragma once

#include <type_traits>

#include "../../core/low_precision.hpp"
#include "../host/context.hpp"
#include "matmul.hpp"

namespace sparsegrad::backend::onednn {

/// Constructed as HostContext is. What oneDNN prepares for a product's shape belongs to it.
class Context : public host::HostContext {
 public:
  using host::HostContext::HostContext;

  /// Whether the processor multiplies numbers of S = bfloat16 or float16 itself (as far as
  /// DNNL_MAX_CPU_ISA allows), so that they need no conversion to float.
  template <class S>
  bool multiplies() const {
    return std::is_same_v<S, sparsegrad::bfloat16> ? bfloat16_ : float16_;
  }

  /// The matmuls that are kept.
  MatmulCache& matmuls() { return matmuls_; }

 private:
  static bool native(const dnnl::engine& engine, dnnl::memory::data_type type) {
    Shape shape;
    shape.m = shape.n = shape.k = 256;
    shape.stride_a = shape.stride_b = shape.stride_c = 256;
    shape.in = type;
    if (!Matmul::native(engine, shape)) return false;
    shape.out = type;
    shape.accumulate = true;
    return Matmul::native(engine, shape);
  }

  MatmulCache matmuls_{threads()};
  bool bfloat16_ = native(matmuls_.engine(), dnnl::memory::data_type::bf16);
  bool float16_ = native(matmuls_.engine(), dnnl::memory::data_type::f16);
};

}  // namespace sparsegrad::backend::onednn
