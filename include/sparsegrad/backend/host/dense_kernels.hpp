// The kernels of a host backend whose library multiplies floats and doubles on one thread.
#pragma once

#include <span>
#include <type_traits>

#include "dense.hpp"
#include "kernels.hpp"
#include "low_precision_products.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// All primitives but the eigenproblem, dense products by `Serial` (see Dense). Products of 16 bits
/// are those of blocks converted to float.
template <class Serial>
struct DenseKernels : Kernels {
  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    if constexpr (is_low_precision<T>) {
      Converted::template gemm<T, T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else {
      Products::template gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    }
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    Converted::template gemm<T, float>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    Products::template gemm_batched<T>(ctx, op_a, op_b, alpha, as, bs, beta, cs);
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    Products::template gram<T>(ctx, op, a, weight, g);
  }

 private:
  using Products = Dense<Serial>;
  using Converted = LowPrecisionProducts<Serial>;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
