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

}  // namespace sparsegrad::finetune::device
