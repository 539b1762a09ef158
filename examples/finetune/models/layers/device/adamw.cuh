#pragma once

#include "../adamw_coefficients.hpp"
#include "mask.cuh"

namespace sparsegrad::finetune::device {

template <class T>
struct AdamWElement {
  AdamWPiece<T> piece;
  bool clear;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    piece.coefficients.update(piece.weight[e], piece.gradient[e], piece.first[e], piece.second[e]);
    if constexpr (is_low_precision<T>) {
      if (piece.rounded != nullptr) piece.rounded[e] = static_cast<T>(piece.weight[e]);
    }
    if (clear) piece.gradient[e] = 0;
  }
};

/// partial[block] = sum of squares of the block's part of x, in double and in a fixed order.
template <class T>
struct SquareChunks {
  static constexpr int threads = 256;
  static constexpr int phases = 2;
  static constexpr index_t chunk = index_t{1} << 14;
  struct Shared {
    double sum[threads];
  };

  const T* x;
  index_t n;
  double* partial;

  index_t blocks() const { return (n + chunk - 1) / chunk; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      const index_t end = (block + 1) * chunk < n ? (block + 1) * chunk : n;
      double sum = 0;
      for (index_t e = block * chunk + thread; e < end; e += threads)
        sum += static_cast<double>(x[e]) * static_cast<double>(x[e]);
      shared.sum[thread] = sum;
    } else if (thread == 0) {
      double sum = 0;
      for (const double part : shared.sum)
        sum += part;
      partial[block] = sum;
    }
  }
};

}  // namespace sparsegrad::finetune::device
