#pragma once

#include <cmath>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// Multi-head attention of each sequence to itself. For one sequence and head, with q, k, v [length, head_size]:
///     P = softmax(q k^T / sqrt(head_size)),  O = dropout(P) v
/// P is never stored: backward makes it again from q, k and the logarithm of each row's sum.
struct AttentionShape {
  index_t heads = 0;
  index_t head_size = 0;

  index_t hidden() const { return heads * head_size; }
  /// The factor of the queries.
  template <class T>
  T scale() const {
    return T(1) / std::sqrt(static_cast<T>(head_size));
  }
};

}  // namespace sparsegrad::finetune
