// What a run's memory is made of.
#pragma once

#include <nlohmann/json.hpp>
#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// Bytes by purpose.
struct MemoryParts {
  index_t program = 0;      ///< resident before the model was made: code, libraries, encoded data
  index_t weights = 0;      ///< and, during phase 1, their copy
  index_t gradients = 0;    ///< dense ones, sums of the MLP layers, sparse gradients and updates
  index_t optimizer = 0;    ///< state of both optimizers
  index_t activations = 0;  ///< what the passes keep, and working memory
  index_t basis = 0;
  index_t collection = 0;  ///< sums of gradients from which bases are fitted

  index_t sum() const { return program + weights + gradients + optimizer + activations + basis + collection; }
};

/// A stretch of the run: its parts at the moment when their sum was largest, and the process's own peak.
struct MemoryAccount {
  MemoryParts parts;
  index_t process_peak = 0;
  bool peak_is_own = true;  ///< false: the system did not let the peak be reset before

  void note(const MemoryParts& now) {
    if (now.sum() > parts.sum()) parts = now;
  }
};

inline nlohmann::json to_json(const MemoryParts& p) {
  return {{"program", p.program},      {"weights", p.weights},         {"gradients", p.gradients},
          {"optimizer", p.optimizer},  {"activations", p.activations}, {"basis", p.basis},
          {"collection", p.collection}};
}

inline nlohmann::json to_json(const MemoryAccount& account) {
  return {{"process_peak_bytes", account.process_peak},
          {"sum_of_parts_bytes", account.parts.sum()},
          {"peak_was_reset", account.peak_is_own},
          {"parts_bytes", to_json(account.parts)}};
}

}  // namespace sparsegrad::finetune
