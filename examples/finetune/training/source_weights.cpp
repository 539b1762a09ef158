#include "training/source_weights.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <sparsegrad/core/float_bits.hpp>

#include "checkpoints/decoder_folder_impl.hpp"
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
  if (source_.change() == nullptr || !source_.change()->reads(p.name)) return values;
  source_.change()->apply(p.name, values);
  const auto wrong = std::find_if(values.begin(), values.end(), [](const float& x) { return !is_finite(x); });
  if (wrong != values.end()) {
    throw ModelError(
        fmt::format("{}: \"{}\" is not finite with the {} at element {}: its numbers are too large",
                    source_.path().string(), p.name, source_.change()->text(), wrong - values.begin()));
  }
  return values;
}

DecoderLoadReport SourceWeights::unused(std::span<const ParameterShape> all) const {
  if (source_.is_gguf()) {
    std::set<std::string, std::less<>> used;
    for (const ParameterShape& p : all)
      used.insert(gguf_name(p.name));
    return unused_gguf_tensors(*source_.gguf(), used);
  }
  std::set<std::string> used;
  for (const ParameterShape& p : all)
    used.insert(decoder_tensor(*folder_, p.name));
  return {detail::unused_decoder_tensors(*folder_, source_.config(), used)};
}

CheckedWeights check_weights(const CausalSource& source) {
  const SourceWeights weights(source);
  const std::vector<ParameterShape> shapes = decoder_shapes(source.config(), {}, 0);
  std::vector<std::string> problems;
  for (const ParameterShape& p : shapes) {
    try {
      (void)weights.values(p);
    } catch (const ModelError& error) {
      problems.emplace_back(error.what());
    } catch (const IoError& error) {
      problems.emplace_back(error.what());
    }
  }
  if (problems.size() == 1) throw ModelError(problems[0]);
  if (!problems.empty()) {
    constexpr std::size_t shown = 10;
    std::string text = fmt::format(
        "{}: {} of the {} tensors that the configuration asks for cannot be taken:", source.path().string(),
        problems.size(), shapes.size());
    for (std::size_t i = 0; i < std::min(shown, problems.size()); ++i)
      text += "\n  " + problems[i];
    if (problems.size() > shown) text += fmt::format("\n  and {} more", problems.size() - shown);
    throw ModelError(text);
  }
  return {shapes.size(), weights.unused(shapes)};
}

}  // namespace sparsegrad::finetune
