// What a finished run changed, as a LoRA.
#pragma once

#include <filesystem>

#include "checkpoints/adapter_files.hpp"

namespace sparsegrad::finetune {

/// A run's adapter and the model that it belongs to.
struct RunAdapter {
  Adapter adapter;
  DecoderConfig config;
  std::filesystem::path base;
  /// Largest share of a matrix's norm ||W'|| that rounding in training left beside the adapter.
  double rounding = 0;
};

/// The adapter of the run whose saved model is `model`, OUT/model beside OUT/run.json: the factors of W' - W for every
/// matrix that it trained, W read from `base`, or where that is empty from the model that the log names.
///
/// W' - W is of the run's rank but for rounding where the run was of type lora, or sparse with a side of a fixed rank;
/// what is left beside the factors must be within 4 sqrt(steps + 1) 2^-24 ||W'||.
///
/// Throws ModelError saying what to do instead: no log, or a run that is not finished; another run type, or bases without
/// a side of a fixed rank; a model saved in 16 bits; another base; parameters beside the matrices that have changed; a
/// difference of a higher rank; none at all.
RunAdapter run_adapter(const std::filesystem::path& model, const std::filesystem::path& base);

}  // namespace sparsegrad::finetune
