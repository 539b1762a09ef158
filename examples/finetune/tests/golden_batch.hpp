// Where the encoder's goldens lie, and their batches.
#pragma once

#include <filesystem>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/layers/batch.hpp"

namespace sparsegrad::finetune::test {

inline std::filesystem::path golden_folder() {
  return std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "bert_tiny";
}

inline Batch batch_of(const nlohmann::json& rows, index_t pad_to = 0) {
  Batch batch;
  for (const auto& row : rows) {
    batch.add(row["ids"].get<std::vector<std::int32_t>>(), row["type_ids"].get<std::vector<std::int32_t>>(),
              row["label"].get<float>(), pad_to);
  }
  return batch;
}

}  // namespace sparsegrad::finetune::test
