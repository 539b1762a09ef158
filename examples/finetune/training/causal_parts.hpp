// What of a language model a run trains.
#pragma once

#include <string_view>
#include <vector>

#include "models/decoder/decoder_config.hpp"
#include "models/model_passes.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// "up,down": kinds of matrices in the order of MatrixKind, each once; "all" are all seven. Throws ValueError.
std::vector<MatrixKind> parse_matrices(std::string_view text);

/// "every-third" (blocks 0, 3, 6, ..., the paper's), "every-second", "all", or numbers from 0: "0,3,6". Throws ValueError,
/// also for a block that a model of so many layers does not have.
std::vector<index_t> parse_blocks(std::string_view text, index_t layers);

/// The chosen matrices as the run type trains them; norms, embeddings, biases and the head stay as they are, unless all
/// parameters train. Throws ValueError.
TrainedParts trained_parts(const TrainOptions& options, const DecoderConfig& config);

}  // namespace sparsegrad::finetune
