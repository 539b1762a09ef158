#include "checkpoints/low_rank.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include <Eigen/Dense>
#include <sparsegrad/core/error.hpp>

#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

LowRankFactors low_rank_factors(std::span<const double> matrix, index_t out, index_t in, index_t rank) {
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  if (static_cast<index_t>(matrix.size()) != out * in || rank < 1 || rank > std::min(out, in)) {
    throw ShapeError("low_rank_factors: " + std::to_string(matrix.size()) + " elements as " +
                     std::to_string(out) + "x" + std::to_string(in) + " of rank " + std::to_string(rank));
  }
  constexpr index_t oversampling = 8;
  const index_t columns = std::min(rank + oversampling, std::min(out, in));
  const Eigen::Map<const RowMajor> m(matrix.data(), out, in);
  Eigen::MatrixXd omega(in, columns);
  for (index_t i = 0; i < omega.size(); ++i)
    omega.data()[i] = normal_at(0, static_cast<std::uint64_t>(i));
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(m * omega);
  const Eigen::MatrixXd q = qr.householderQ() * Eigen::MatrixXd::Identity(out, columns);
  const Eigen::MatrixXd reduced = q.transpose() * m;
  // Ascending eigenvalues: the last are the largest.
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(reduced * reduced.transpose());
  const Eigen::MatrixXd w = eigen.eigenvectors().rightCols(rank).rowwise().reverse();
  RowMajor a = w.transpose() * reduced;
  RowMajor b = q * w;
  for (index_t i = 0; i < rank; ++i) {
    const double sigma = a.row(i).norm();
    const double scale = sigma > 0 ? 1 / std::sqrt(sigma) : 0;
    a.row(i) *= scale;
    b.col(i) *= std::sqrt(sigma);
  }
  LowRankFactors factors;
  factors.a.resize(static_cast<std::size_t>(rank * in));
  factors.b.resize(static_cast<std::size_t>(out * rank));
  for (std::size_t i = 0; i < factors.a.size(); ++i)
    factors.a[i] = static_cast<float>(a.data()[i]);
  for (std::size_t i = 0; i < factors.b.size(); ++i)
    factors.b[i] = static_cast<float>(b.data()[i]);
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> stored_a(
      factors.a.data(), rank, in);
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> stored_b(
      factors.b.data(), out, rank);
  factors.residual = (m - stored_b.cast<double>() * stored_a.cast<double>()).norm();
  return factors;
}

}  // namespace sparsegrad::finetune
