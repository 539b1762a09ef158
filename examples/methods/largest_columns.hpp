// DCT-AdamW's selector: the columns of largest norm in a fixed fast transform.
#pragma once

#include <sparsegrad/selector.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

namespace methods {
using namespace sparsegrad;

/// All entries of the r columns of the core with the largest norms, chosen anew in every step (Modoranu et al., "FFT-based
/// Dynamic Subspace Selection for Low-Rank Adaptive Optimization of Large Language Models", ICLR 2026). With a Hadamard
/// in side the core is G Q, its columns the gradient along the r best of Q's n vectors. S needs room for rows * r entries.
struct LargestColumns {
  index_t r;

  template <class Context, class T, class B>
  void operator()(Context& ctx, MatrixView<const T> core, SparseGradient<T, B>& s) const {
    const auto cols = static_cast<std::size_t>(core.cols);
    std::vector<double> sums(cols);
    double* energy = sums.data();
    for (index_t i = 0; i < core.rows; ++i)
      for (index_t j = 0; j < core.cols; ++j)
        energy[j] += double(core(i, j)) * core(i, j);
    std::vector<index_t> best(cols);
    std::iota(best.begin(), best.end(), 0);
    std::stable_sort(best.begin(), best.end(), [&](auto a, auto b) { return energy[a] > energy[b]; });
    best.resize(std::min(static_cast<std::size_t>(r), cols));
    std::sort(best.begin(), best.end());

    std::vector<stored_index_t> positions;
    std::vector<T> values;
    for (index_t i = 0; i < core.rows; ++i)
      for (const index_t j : best) {
        positions.push_back(stored_index_t(i * core.cols + j));
        values.push_back(core(i, j));
      }
    s.assign(ctx, positions, values);
  }
};

}  // namespace methods
