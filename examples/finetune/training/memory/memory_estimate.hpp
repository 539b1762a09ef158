// What a run will need, before it takes it.
#pragma once

#include "models/decoder/decoder_config.hpp"
#include "models/encoder/model_config.hpp"
#include "models/parameters/packed_matrix.hpp"
#include "training/memory/memory_account.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// Bytes of a run's two phases, at most: the largest batch, optimizer states that have become dense where they may, every
/// side of a rule by energy of full rank. Left out are the pages of the model's file, mapped while it is read (at the start
/// and at the end of phase 1), which the system may drop.
struct MemoryEstimate {
  MemoryParts phase1;    ///< zeros when the run has none
  MemoryParts training;  ///< refreshes of the bases included
  index_t least = 0;  ///< what one of the phases cannot do without: nothing of the above, and no activations

  /// The phase that needs more.
  const MemoryParts& largest() const { return phase1.sum() > training.sum() ? phase1 : training; }
};

/// From the model's extents, the run's options and the tokens of its largest micro-batch. The program itself is left out.
MemoryEstimate estimate_memory(const ModelConfig& config, const TrainOptions& options, index_t tokens);
/// Of a language model, with weights that stay `packed` as the model has them (DecoderModel): the bytes of their file,
/// and what they are unpacked into. Updates beside them are of all entries that `steps` steps may choose (0: not known, all
/// of the core). Throws ValueError.
MemoryEstimate estimate_memory(const DecoderConfig& config, const TrainOptions& options, index_t tokens,
                               const PackedMatrices& packed = {}, index_t steps = 0);

nlohmann::json to_json(const MemoryEstimate& estimate);

/// Throws ModelError when `estimate.least` exceeds `available` bytes (0: not known), or, with `all_of_it`, its largest phase
/// does: saying how much is needed of what, and what needs less.
void require_memory(const MemoryEstimate& estimate, index_t available, bool all_of_it = false);

}  // namespace sparsegrad::finetune
