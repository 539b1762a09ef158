// Conversions between float and the 16-bit types.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>

#include "../../core/low_precision.hpp"
#include "../../core/view.hpp"
#include "context.hpp"
#include "elementwise.hpp"
#include "lanes.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The primitives `widen` and `round_to` of the contract (core/backend.hpp), and `split`.
struct Convert {
  template <class S>
  static void widen(HostContext& ctx, MatrixView<const S> a, MatrixView<float> b) {
    on_rows(ctx, b.rows, b.cols, a.contiguous() && b.contiguous(),
            [&](index_t i, index_t begin, index_t end) {
              widen_array(a.row(i) + begin, b.row(i) + begin, end - begin);
            });
  }

  template <class S>
  static void round_to(HostContext& ctx, MatrixView<const float> a, MatrixView<S> b) {
    on_rows(ctx, b.rows, b.cols, a.contiguous() && b.contiguous(),
            [&](index_t i, index_t begin, index_t end) {
              round_array(a.row(i) + begin, b.row(i) + begin, end - begin);
            });
  }

  /// terms[0] + terms[1] + ... = A, each the rounded rest of those before (rotation_precision.hpp).
  static void split(HostContext& ctx, MatrixView<const float> a,
                    std::span<const MatrixView<sparsegrad::bfloat16>> terms) {
    bool contiguous = a.contiguous();
    for (const auto& term : terms)
      contiguous = contiguous && term.contiguous();
    on_rows(ctx, a.rows, a.cols, contiguous, [&](index_t i, index_t begin, index_t end) {
      constexpr index_t piece = 1024;
      float rest[piece], rounded[piece];
      for (index_t first = begin; first < end; first += piece) {
        const index_t n = (std::min)(piece, end - first);
        std::copy_n(a.row(i) + first, n, rest);
        for (std::size_t t = 0; t < terms.size(); ++t) {
          sparsegrad::bfloat16* to = terms[t].row(i) + first;
          round_array(rest, to, n);
          if (t + 1 == terms.size()) break;
          widen_array(to, rounded, n);
          for (index_t j = 0; j < n; ++j)
            rest[j] -= rounded[j];
        }
      }
    });
  }

  /// to[i] = from[i], serial.
  template <class S>
  [[gnu::noinline]] static void widen_array(const S* from, float* to, index_t n) {
    using Lanes = LowPrecisionLanes<S>;
    index_t i = 0;
    for (; i + Lanes::count <= n; i += Lanes::count) {
      Lanes x;
      x.load(from + i);
      std::memcpy(to + i, &x.v, sizeof x.v);
    }
    for (; i < n; ++i)
      to[i] = static_cast<float>(from[i]);
  }

  /// to[i] = from[i], to the nearest, serial.
  template <class S>
  [[gnu::noinline]] static void round_array(const float* from, S* to, index_t n) {
    using Lanes = LowPrecisionLanes<S>;
    index_t i = 0;
    for (; i + Lanes::count <= n; i += Lanes::count) {
      Lanes x;
      std::memcpy(&x.v, from + i, sizeof x.v);
      x.store(to + i);
    }
    for (; i < n; ++i)
      to[i] = static_cast<S>(from[i]);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
