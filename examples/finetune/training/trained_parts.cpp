#include "training/trained_parts.hpp"

#include <string_view>

namespace sparsegrad::finetune {

namespace {

bool is_mlp_bias_or_head(std::string_view name) {
  if (name.starts_with("bert.pooler.") || name.starts_with("classifier.")) return true;
  return name.ends_with(".intermediate.dense.bias") ||
         (name.ends_with(".output.dense.bias") && !name.ends_with(".attention.output.dense.bias"));
}

}  // namespace

MlpTraining matrix_training(const TrainOptions& options) {
  MlpTraining training;
  training.matrices = options.trains_matrices();
  training.sparsely = options.steps_sparsely();
  if (options.run_type == RunType::lora) {
    training.lora_rank = options.lora.rank;
    training.lora_scale =
        options.lora.scale > 0 ? options.lora.scale : 1 / static_cast<double>(options.lora.rank);
    training.lora_init = options.lora.init;
  }
  if (options.run_type == RunType::meprop) training.meprop_share = options.meprop_share;
  return training;
}

TrainedParts trained_parts(const TrainOptions& options) {
  TrainedParts parts;
  parts.mlp = matrix_training(options);
  if (options.trained == TrainedParameters::mlp) {
    parts.dense = is_mlp_bias_or_head;
  } else if (options.run_type == RunType::sparse && options.sparse.defects.frozen_layer_norm) {
    parts.dense = [](std::string_view name) { return name.find("LayerNorm") == std::string_view::npos; };
  }
  return parts;
}

}  // namespace sparsegrad::finetune
