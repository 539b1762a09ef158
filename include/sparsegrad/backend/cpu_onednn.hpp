// backend::CpuOneDnn: oneDNN for products in float, CBLAS and LAPACKE for those in double and for the
// symmetric eigenproblem.
#pragma once

#include <span>
#include <type_traits>

#include "cpu_blas/eigh.hpp"
#include "cpu_blas/serial.hpp"
#include "cpu_onednn/context.hpp"
#include "cpu_onednn/products.hpp"
#include "cpu_onednn/serial.hpp"
#include "host/dense.hpp"
#include "host/kernels.hpp"
#include "host/low_precision_products.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

/// Products in float run on the context's threads, each tile a serial matmul of oneDNN; those below
/// 2^15 multiply-adds, for which its call costs too much, by the BLAS. Nothing else starts threads
/// and no process-wide setting is touched.
///
/// A matmul is made for a product's extents and strides when they occur first (0.1 to 0.4 ms) and
/// kept by the context, the last 512 of them. A call of oneDNN takes 5 to 9 small pieces from the
/// heap; nothing else does after `reserve` but a product of new extents.
struct CpuOneDnn : host::Kernels {
  /// Threads, scratch memory, and the matmuls that were made.
  using Context = onednn::Context;
  static constexpr const char* name() { return "cpu_onednn"; }

  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    if constexpr (std::is_same_v<T, float>) {
      OneDnn::gemm(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else if constexpr (is_low_precision<T>) {
      low_precision<T, T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else {
      Blas::gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    }
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    low_precision<T, float>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    if constexpr (std::is_same_v<T, float>) {
      OneDnn::gemm_batched(ctx, op_a, op_b, alpha, as, bs, beta, cs);
    } else {
      Blas::gemm_batched<T>(ctx, op_a, op_b, alpha, as, bs, beta, cs);
    }
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    if constexpr (std::is_same_v<T, float>) {
      OneDnn::gram(ctx, op, a, weight, g);
    } else {
      Blas::gram<T>(ctx, op, a, weight, g);
    }
  }
  /// By dsytrd, dstemr and products with blocks of reflectors (cpu_blas/eigh.hpp).
  static void eigh(Context& ctx, MatrixView<double> a, double* w) { detail::BlasEigh::eigh(ctx, a, w); }

 private:
  using Blas = host::Dense<detail::BlasSerial>;
  using OneDnn = onednn::Products<float>;
  using Converted = host::LowPrecisionProducts<onednn::FloatSerial>;

  template <class S, class Out>
  static void low_precision(Context& ctx, Op op_a, Op op_b, float alpha, ConstMatrixView<S> a,
                            ConstMatrixView<S> b, float beta, MatrixView<Out> c) {
    if (ctx.multiplies<S>()) {
      onednn::Products<S, Out>::gemm(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else {
      Converted::template gemm<S, Out>(ctx, op_a, op_b, alpha, a, b, beta, c);
    }
  }
};

static_assert(Backend<CpuOneDnn> && LowPrecisionBackend<CpuOneDnn, bfloat16> &&
              LowPrecisionBackend<CpuOneDnn, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
