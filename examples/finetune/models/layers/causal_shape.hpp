#pragma once

#include <cmath>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// Grouped-query attention of each token to those before it in its sequence and to itself. For one sequence and head of
/// the queries, with q [length, head_size] and the k, v of head h kv_heads / heads:
///     P = softmax over j <= i of q_i k_j^T / sqrt(head_size),  O = P v
/// P is never stored: backward makes it again from q, k and the logarithm of each row's sum. q, k and v of a token lie in
/// one row: [q_cols | kv_cols | kv_cols].
struct CausalShape {
  index_t heads = 0;
  index_t kv_heads = 0;
  index_t head_size = 0;

  index_t group() const { return heads / kv_heads; }
  index_t q_cols() const { return heads * head_size; }
  index_t kv_cols() const { return kv_heads * head_size; }
  index_t cols() const { return q_cols() + 2 * kv_cols(); }
  /// The factor of the scores.
  template <class T>
  T scale() const {
    return T(1) / std::sqrt(static_cast<T>(head_size));
  }
};

}  // namespace sparsegrad::finetune
