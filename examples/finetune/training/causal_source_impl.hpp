// Definitions of CausalSource's templates, for the files that instantiate them.
#pragma once

#include <vector>

#include "checkpoints/decoder_folder.hpp"
#include "checkpoints/gguf_model.hpp"
#include "checkpoints/gguf_tokenizer_files.hpp"
#include "training/causal_source.hpp"
#include "training/source_weights.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
void CausalSource::load(DecoderModel<T, Backend>& model, std::uint64_t seed) const {
  if (gguf_ != nullptr)
    (void)load_gguf_weights(*gguf_, model, seed);
  else
    (void)load_weights(folder_, model, seed);
  if (change_ == nullptr) return;
  const SourceWeights weights(*this);
  for (Parameter<T>& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter || !change_->reads(p.name)) continue;
    // Named, as nvcc 12 takes braces for a reference apart.
    const ParameterShape shape{p.name, p.rows(), p.cols()};
    const std::vector<float> values = weights.values(shape);
    if (change_->changes(p.name)) model.set_values(p.weight, values);
  }
}

template <class T, class Backend>
void CausalSource::save(const std::filesystem::path& folder, const DecoderModel<T, Backend>& model,
                        io::DType type) const {
  if (gguf_ != nullptr) write_tokenizer_files(*gguf_, folder);
  save_decoder(folder, folder_, model, type);
}

}  // namespace sparsegrad::finetune
