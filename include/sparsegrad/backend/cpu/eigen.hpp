// What backend::Cpu computes with Eigen.
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>

#include "backend.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

namespace detail {

/// Eigen's choice of blocks, in memory of the caller's.
template <class T>
class EigenBlocking : public Eigen::internal::level3_blocking<T, T> {
 public:
  EigenBlocking(index_t rows, index_t cols, index_t depth) {
    this->m_mc = rows;
    this->m_nc = cols;
    this->m_kc = depth;
    Eigen::internal::computeProductBlockingSizes<T, T, 1>(this->m_kc, this->m_mc, this->m_nc,
                                                          Eigen::Index(1));
  }
  /// A product smaller than the one that the memory was counted for may want other, larger
  /// blocks: halves them until they fit.
  void place(std::span<T> memory) {
    while (count() > static_cast<index_t>(memory.size())) {
      Eigen::Index& larger = this->m_mc > this->m_nc ? this->m_mc : this->m_nc;
      larger = (larger + 1) / 2;
    }
    this->m_blockA = memory.data();
    this->m_blockB = memory.data() + aligned(this->m_mc * this->m_kc);
  }
  index_t count() const { return aligned(this->m_mc * this->m_kc) + aligned(this->m_kc * this->m_nc); }

 private:
  static index_t aligned(index_t n) { return (n + 15) / 16 * 16; }
};

template <class T>
index_t EigenSerial::pack_count(index_t m, index_t n, index_t k) {
  if (m == 0 || n == 0 || k == 0) return 0;  // Eigen's heuristic divides by the extents
  return EigenBlocking<T>(n, m, k).count() + 4096;
}

template <class T, int OrderA, int OrderB>
void eigen_product(T alpha, MatrixView<const T> a, MatrixView<const T> b, index_t depth, MatrixView<T> c,
                   std::span<T> pack) {
  // The kernel writes column-major: C^T = op(B)^T op(A)^T, where a row-major matrix is its
  // transpose in columns.
  EigenBlocking<T> blocking(c.cols, c.rows, depth);
  blocking.place(pack);
  Eigen::internal::general_matrix_matrix_product<Eigen::Index, T, OrderB, false, T, OrderA, false,
                                                 Eigen::ColMajor, 1>::run(c.cols, c.rows, depth, b.data,
                                                                          b.stride, a.data, a.stride, c.data,
                                                                          1, c.stride, alpha, blocking,
                                                                          nullptr);
}

template <class T>
void EigenSerial::gemm(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
                       MatrixView<T> c, std::span<T> pack) {
  for (index_t i = 0; i < c.rows && beta != T(1); ++i) {
    T* row = c.row(i);
    for (index_t j = 0; j < c.cols; ++j)
      row[j] = beta == T(0) ? T(0) : beta * row[j];
  }
  const index_t depth = op_a == Op::none ? a.cols : a.rows;
  if (depth == 0 || c.empty()) return;
  constexpr int col = Eigen::ColMajor;
  constexpr int row = Eigen::RowMajor;
  if (op_a == Op::none) {
    op_b == Op::none ? eigen_product<T, col, col>(alpha, a, b, depth, c, pack)
                     : eigen_product<T, col, row>(alpha, a, b, depth, c, pack);
  } else {
    op_b == Op::none ? eigen_product<T, row, col>(alpha, a, b, depth, c, pack)
                     : eigen_product<T, row, row>(alpha, a, b, depth, c, pack);
  }
}

}  // namespace detail

template <class>
void Cpu::eigh(Context&, MatrixView<double> a, double* w) {
  if (a.rows == 0) return;
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>> map(a.data, a.rows, a.cols,
                                                                 Eigen::OuterStride<>(a.stride));
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(map);
  if (solver.info() != Eigen::Success) {
    throw Error("the symmetric eigenproblem of order " + std::to_string(a.rows) + " did not converge");
  }
  for (index_t i = 0; i < a.rows; ++i) {
    w[i] = solver.eigenvalues()[a.rows - 1 - i];
    map.row(i) = solver.eigenvectors().col(a.rows - 1 - i).transpose();
  }
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
