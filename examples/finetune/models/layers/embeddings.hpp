#pragma once

#include <string>

#include "batch.hpp"
#include "layer_norm.hpp"
#include "models/model_error.hpp"

namespace sparsegrad::finetune {

/// y = dropout(LayerNorm(word[id] + position[p] + type[t])).
template <class T>
struct Embeddings {
  MatrixView<const T> word, position, type;
  MatrixView<T> d_word, d_position, d_type;  ///< empty: frozen
  LayerNorm<T> norm;

  bool trains_tables() const { return !d_word.empty() || !d_position.empty() || !d_type.empty(); }

  /// Throws ModelError naming the first id, position or type beyond its table.
  void check(const Batch& batch) const {
    const auto inside = [](const char* what, const std::vector<std::int32_t>& numbers, index_t end) {
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (numbers[i] < 0 || numbers[i] >= end) {
          throw ModelError(std::string("batch: ") + what + " " + std::to_string(numbers[i]) + " of token " +
                           std::to_string(i) + " is not below " + std::to_string(end));
        }
      }
    };
    inside("id", batch.ids, word.rows);
    inside("position", batch.position_ids, position.rows);
    inside("type", batch.type_ids, type.rows);
  }
};

}  // namespace sparsegrad::finetune
