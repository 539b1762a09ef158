// backend::CpuBlas: CBLAS for dense products, LAPACKE for the symmetric eigenproblem.
#pragma once

#include <span>
#include <type_traits>

#include "cpu_blas/eigh.hpp"
#include "cpu_blas/serial.hpp"
#include "host/dense.hpp"
#include "host/kernels.hpp"
#include "host/low_precision_products.hpp"

namespace sparsegrad::backend {

/// Products run on the context's threads, each tile a serial BLAS call: with an OpenMP or a serial
/// build of the BLAS nothing else starts threads. Extents up to 2^31 - 1 (32-bit BLAS integers).
struct CpuBlas : host::Kernels {
  static constexpr const char* name() { return "cpu_blas"; }

  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    if constexpr (is_low_precision<T>) {
      LowPrecisionProducts::template gemm<T, T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else {
      Products::template gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    }
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    LowPrecisionProducts::template gemm<T, float>(ctx, op_a, op_b, alpha, a, b, beta, c);
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
  /// By dsytrd, dstemr and products with blocks of reflectors (cpu_blas/eigh.hpp).
  static void eigh(Context& ctx, MatrixView<double> a, double* w) { detail::BlasEigh::eigh(ctx, a, w); }

 private:
  using Products = host::Dense<detail::BlasSerial>;
  using LowPrecisionProducts = host::LowPrecisionProducts<detail::BlasSerial>;
};

static_assert(Backend<CpuBlas> && LowPrecisionBackend<CpuBlas, bfloat16> &&
              LowPrecisionBackend<CpuBlas, float16>);

}  // namespace sparsegrad::backend
