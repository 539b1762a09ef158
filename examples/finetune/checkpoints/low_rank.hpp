#pragma once

#include <span>
#include <vector>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// A matrix [out, in] as a product B A of rank r, the two matrices of a LoRA.
struct LowRankFactors {
  std::vector<float> a;  ///< [rank, in]
  std::vector<float> b;  ///< [out, rank]
  double residual = 0;   ///< Frobenius norm of the matrix less B A, of the factors as they are stored
};

/// The factors of a matrix that is of this rank but for noise.
///
///     Q = orthonormal columns of M Omega, Omega random [in, rank + 8];  Q^T M = W S Z^T
///     B = Q W_r S_r^(1/2),  A = S_r^(1/2) Z_r^T
///
/// A and B have equal norms, column by column, so that neither leaves the range of 16 bits. Rows of A beyond the matrix's
/// own rank are zero, and so are B's columns. Computed in double. Throws ShapeError unless `matrix` has out x in
/// elements and 1 <= rank <= min(out, in). Source: Halko, Martinsson and Tropp, 2011, algorithm 4.1.
LowRankFactors low_rank_factors(std::span<const double> matrix, index_t out, index_t in, index_t rank);

}  // namespace sparsegrad::finetune
