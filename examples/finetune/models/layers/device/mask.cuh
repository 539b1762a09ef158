#pragma once

#include "../dropout.hpp"
#include "kernels.cuh"

namespace sparsegrad::finetune::device {

/// Dropout's multiplier of an entry; 1 where it is off.
template <class T>
SPARSEGRAD_HOST_DEVICE T multiplier(const Dropout<T>& dropout, index_t i, index_t j) {
  return dropout.on() ? dropout.row(i).at(j) : T(1);
}

/// to = mask * from; the two may be the same. Returns what it writes, so that a pass can sum it too.
template <class T>
struct MaskEntry {
  Dropout<compute_t<T>> dropout;
  Array2<const T> from;
  Array2<T> to;
  SPARSEGRAD_HOST_DEVICE T operator()(index_t i, index_t j) const {
    return to(i, j) = static_cast<T>(from(i, j) * multiplier(dropout, i, j));
  }
};

}  // namespace sparsegrad::finetune::device
