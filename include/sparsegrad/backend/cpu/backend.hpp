// backend::Cpu, whose products and eigenproblem are defined in eigen.hpp.
#pragma once

#include <span>

#include "../host/dense_kernels.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

namespace detail {

/// Eigen's blocked product with the packing memory passed in. A plain `C.noalias() += A * B` takes
/// that memory from the heap at each call and asks the process for its number of threads.
struct EigenSerial {
  template <class T>
  static index_t pack_count(index_t m, index_t n, index_t k);
  template <class T>
  static void gemm(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
                   MatrixView<T> c, std::span<T> pack);
  /// Lower triangle of C = op(A) op(A)^T.
  template <class T>
  static void lower_gram(Op op, MatrixView<const T> a, MatrixView<T> c, std::span<T> pack) {
    gemm<T>(op, op == Op::none ? Op::transpose : Op::none, T(1), a, a, T(0), c, pack);
  }
};

}  // namespace detail

struct Cpu : host::DenseKernels<detail::EigenSerial> {
  static constexpr const char* name() { return "cpu"; }

  /// A template so that only a program that fits a basis compiles Eigen's solver (some seconds).
  template <class = void>
  static void eigh(Context&, MatrixView<double> a, double* w);
};

static_assert(Backend<Cpu> && LowPrecisionBackend<Cpu, bfloat16> && LowPrecisionBackend<Cpu, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
