#include "training/source_weights.hpp"

#include "checkpoints/gguf_model.hpp"

namespace sparsegrad::finetune {

SourceWeights::SourceWeights(const CausalSource& source) : source_(source) {
  if (!source.is_gguf()) folder_.emplace(source.path());
}

std::vector<float> SourceWeights::values(const ParameterShape& p) const {
  std::vector<float> values;
  if (source_.is_gguf()) {
    values = gguf_parameter(*source_.gguf(), source_.config(), p.name, p.is_vector() ? 0 : p.rows, p.cols);
  } else {
    const std::string name = decoder_tensor(*folder_, p.name);
    (void)folder_->find(name,
                        p.is_vector() ? std::vector<index_t>{p.cols} : std::vector<index_t>{p.rows, p.cols});
    values = folder_->read_as<float>(name);
  }
  if (source_.change() != nullptr && source_.change()->reads(p.name)) source_.change()->apply(p.name, values);
  return values;
}

}  // namespace sparsegrad::finetune
