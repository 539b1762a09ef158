// The context of backend::CpuOneDnn: a HostContext with the matmuls that it has made.
#pragma once

#include <string>
#include <type_traits>

#include "../../core/low_precision.hpp"
#include "../host/context.hpp"
#include "matmul.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn {

/// Constructed as HostContext is. What oneDNN prepares for a product's shape belongs to it.
class Context : public host::HostContext {
 public:
  using host::HostContext::HostContext;

  /// Whether the processor multiplies numbers of S = bfloat16 or float16 itself (as far as
  /// DNNL_MAX_CPU_ISA allows), so that they need no conversion to float.
  template <class S>
  bool multiplies() const {
    return product_speedup<S>() > 1;
  }

  /// About how many times the rate of float products those of T have: 2 for 16 bits that AVX-512
  /// multiplies, 8 with AMX (of 4 at 350 tokens and 8 to 12 from 2048 on, measured on a Xeon of the
  /// 4th generation), 1 for numbers that are converted.
  template <class T>
  double product_speedup() const {
    return std::is_same_v<T, sparsegrad::bfloat16>  ? bfloat16_
           : std::is_same_v<T, sparsegrad::float16> ? float16_
                                                    : 1.0;
  }

  /// The matmuls that are kept.
  MatmulCache& matmuls() { return matmuls_; }

 private:
  /// By the names of oneDNN's kernels: "brg:avx512_core_amx_bf16".
  static double speedup(const dnnl::engine& engine, dnnl::memory::data_type type) {
    Shape shape;
    shape.m = shape.n = shape.k = 256;
    shape.stride_a = shape.stride_b = shape.stride_c = 256;
    shape.in = type;
    const std::string kernel = Matmul::native_kernel(engine, shape);
    shape.out = type;
    shape.accumulate = true;
    if (kernel.empty() || Matmul::native_kernel(engine, shape).empty()) return 1;
    return kernel.find("amx") != std::string::npos ? 8 : 2;
  }

  MatmulCache matmuls_{threads()};
  double bfloat16_ = speedup(matmuls_.engine(), dnnl::memory::data_type::bf16);
  double float16_ = speedup(matmuls_.engine(), dnnl::memory::data_type::f16);
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn
