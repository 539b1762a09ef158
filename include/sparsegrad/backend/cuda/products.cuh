// Dense products by cuBLAS.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>

#include "../../core/backend.hpp"
#include "../thrust/elements.cuh"
#include "context.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda {

inline cublasOperation_t operation(Op op) {
  return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T;
}

inline std::int64_t leading(index_t stride) {
  return std::max<std::int64_t>(stride, 1);
}

/// C = alpha op(A) op(B) + beta C. A row-major matrix is the transpose of the column-major one in
/// the same memory: cuBLAS computes C^T = op(B)^T op(A)^T, for which the operands change places and
/// keep their ops.
template <class T, class System>
void gemm(CudaContext& ctx, Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
          MatrixView<T> c) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  if (c.empty()) return;
  const index_t depth = op_a == Op::none ? a.cols : a.rows;
  if (depth == 0) {
    if (beta != T(0)) return portable::Elements<System>::template scale<T>(ctx, beta, c);
    return portable::for_each_entry<System>(ctx, c.rows, c.cols, portable::SetEntry<T>{T(0), c});
  }
  const CudaContext::BlasCall blas(ctx, ctx.math());
  const auto product = [&](auto call) {
    check(call(blas.handle(), operation(op_b), operation(op_a), c.cols, c.rows, depth, &alpha, b.data,
               leading(b.stride), a.data, leading(a.stride), &beta, c.data, leading(c.stride)),
          "cublas gemm");
  };
  if constexpr (std::is_same_v<T, float>) {
    product(cublasSgemm_64);
  } else {
    product(cublasDgemm_64);
  }
}

template <class T>
inline constexpr cudaDataType_t data_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t data_type<bfloat16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType_t data_type<float16> = CUDA_R_16F;

/// The same for A and B in 16 bits and C in the same or in float, on tensor cores. Sums are float's
/// throughout: also where cuBLAS cuts the depth into parts, whose sums it would else add in the
/// type of C.
template <class T, class Out, class System>
void low_precision_gemm(CudaContext& ctx, Op op_a, Op op_b, float alpha, MatrixView<const T> a,
                        MatrixView<const T> b, float beta, MatrixView<Out> c) {
  static_assert(is_low_precision<T>);
  if (c.empty()) return;
  const index_t depth = op_a == Op::none ? a.cols : a.rows;
  if (depth == 0) {
    if (beta != 0) return portable::Elements<System>::template scale<Out>(ctx, beta, c);
    return portable::for_each_entry<System>(ctx, c.rows, c.cols, portable::SetEntry<Out>{Out(0), c});
  }
  const CudaContext::BlasCall blas(
      ctx, static_cast<cublasMath_t>(static_cast<int>(CUBLAS_DEFAULT_MATH) |
                                     CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
  check(
      cublasGemmEx_64(blas.handle(), operation(op_b), operation(op_a), c.cols, c.rows, depth, &alpha, b.data,
                      data_type<T>, leading(b.stride), a.data, data_type<T>, leading(a.stride), &beta, c.data,
                      data_type<Out>, leading(c.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "cublas gemm");
}

/// The operands of product t of a batch, as lists in the device's memory.
template <class T>
struct OperandLists {
  const T** a;
  const T** b;
  T** c;
};
template <class T>
struct SetOperands {
  static constexpr int threads = 32;
  static constexpr int phases = 1;
  struct Shared {};

  OperandLists<T> lists;
  index_t t;
  const T* a;
  const T* b;
  T* c;

  static constexpr index_t blocks() { return 1; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared&) const {
    if (thread != 0) return;
    lists.a[t] = a;
    lists.b[t] = b;
    lists.c[t] = c;
  }
};

/// The products of one shape and stride that follow one another, each in one call.
template <class T, class System>
void gemm_batched(CudaContext& ctx, Op op_a, Op op_b, T alpha, std::span<const MatrixView<const T>> as,
                  std::span<const MatrixView<const T>> bs, T beta, std::span<const MatrixView<T>> cs) {
  const auto alike = [](const auto& x, const auto& y) {
    return x.rows == y.rows && x.cols == y.cols && x.stride == y.stride;
  };
  for (std::size_t first = 0, last = 0; first < cs.size(); first = last) {
    last = first + 1;
    while (last < cs.size() && alike(as[first], as[last]) && alike(bs[first], bs[last]) &&
           alike(cs[first], cs[last]))
      ++last;
    const index_t depth = op_a == Op::none ? as[first].cols : as[first].rows;
    if (last == first + 1 || depth == 0 || cs[first].empty()) {
      for (std::size_t t = first; t < last; ++t)
        gemm<T, System>(ctx, op_a, op_b, alpha, as[t], bs[t], beta, cs[t]);
      continue;
    }
    auto frame = ctx.frame();
    const auto count = static_cast<index_t>(last - first);
    const OperandLists<T> lists{frame.template take<const T*>(count), frame.template take<const T*>(count),
                                frame.template take<T*>(count)};
    // Written by a launch, whose parameters a captured graph holds; a copy from the host would have
    // to outlive it.
    portable::launch_batch<
        System>(ctx, cs.subspan(first, last - first), [&](const MatrixView<T>& c, std::size_t t) {
      return SetOperands<T>{lists, static_cast<index_t>(t), as[first + t].data, bs[first + t].data, c.data};
    });
    const CudaContext::BlasCall blas(ctx, ctx.math());
    const auto product = [&](auto call) {
      check(call(blas.handle(), operation(op_b), operation(op_a), cs[first].cols, cs[first].rows, depth,
                 &alpha, lists.b, leading(bs[first].stride), lists.a, leading(as[first].stride), &beta,
                 lists.c, leading(cs[first].stride), count),
            "cublas gemm of a batch");
    };
    if constexpr (std::is_same_v<T, float>) {
      product(cublasSgemmBatched_64);
    } else {
      product(cublasDgemmBatched_64);
    }
  }
}

/// Lower triangle of C = op(A) op(A)^T, in the full precision of T.
template <class T>
void lower_gram(CudaContext& ctx, Op op, MatrixView<const T> a, MatrixView<T> c) {
  const index_t depth = op == Op::none ? a.cols : a.rows;
  const CudaContext::BlasCall blas(ctx, CUBLAS_PEDANTIC_MATH);
  const T one = 1;
  const T none = 0;
  const auto product = [&](auto call) {
    check(call(blas.handle(), CUBLAS_FILL_MODE_UPPER, op == Op::none ? CUBLAS_OP_T : CUBLAS_OP_N, c.rows,
               depth, &one, a.data, leading(a.stride), &none, c.data, leading(c.stride)),
          "cublas syrk");
  };
  if constexpr (std::is_same_v<T, float>) {
    product(cublasSsyrk_64);
  } else {
    product(cublasDsyrk_64);
  }
}

/// Lower triangle of G += weight op(A) op(A)^T: products of at most `chunk` terms in T, their sums
/// in double.
template <class T, class System>
void gram(CudaContext& ctx, Op op, MatrixView<const T> a, double weight, MatrixView<double> g) {
  constexpr index_t chunk = 4096;
  const index_t depth = op == Op::none ? a.cols : a.rows;
  if (g.empty() || depth == 0) return;
  auto frame = ctx.frame();
  const MatrixView<T> part = frame.template matrix<T>(g.rows, g.cols);
  for (index_t first = 0; first < depth; first += chunk) {
    const index_t terms = (std::min)(chunk, depth - first);
    lower_gram<T>(ctx, op,
                  op == Op::none ? a.block(0, first, a.rows, terms) : a.block(first, 0, terms, a.cols), part);
    portable::for_each_entry<System>(ctx, g.rows, g.cols,
                                     portable::AddLower<T>{weight, MatrixView<const T>(part), g});
  }
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
