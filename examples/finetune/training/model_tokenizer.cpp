#include "training/model_tokenizer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace sparsegrad::finetune {

std::unique_ptr<Tokenizer> load_model_tokenizer(const std::filesystem::path& directory,
                                                const ModelConfig& config, index_t max_length,
                                                TokenizerReport& report) {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(directory, &report);
  const auto ids = static_cast<index_t>(tokenizer->vocab_size());
  const auto note = [&](std::string text) { report.notes.push_back(std::move(text)); };
  if (ids > config.vocab_size) {
    throw ModelError(fmt::format(
        "{}: the tokenizer has ids up to {} (\"{}\"), the model's word embeddings only {} rows. Either the "
        "embeddings were not resized for added tokens (transformers' resize_token_embeddings), or the "
        "tokenizer's "
        "files are another model's",
        directory.string(), ids - 1, tokenizer->token_of(static_cast<std::int32_t>(ids - 1)),
        config.vocab_size));
  }
  if (ids < config.vocab_size) {
    note(fmt::format("the model has {} word embeddings, the tokenizer ids for {} of them", config.vocab_size,
                     ids));
  }
  if (tokenizer->pad_id() != config.pad_token_id) {
    note(fmt::format(
        "the padding token's id is {} in the tokenizer and {} in config.json's \"pad_token_id\"{}",
        tokenizer->pad_id(), config.pad_token_id,
        config.family == ModelFamily::roberta ? ", from which the model counts its positions"
                                              : ": padding is never attended to"));
  }
  if ((config.family == ModelFamily::roberta) != (report.kind == "byte-level BPE")) {
    note(fmt::format("the model is of the family {}, the tokenizer is {}", to_string(config.family),
                     report.kind));
  }
  if (report.model_max_length && *report.model_max_length < static_cast<double>(max_length)) {
    note(fmt::format(
        "--max-length is {}, tokenizer_config.json says \"model_max_length\" {}: the former counts",
        max_length, *report.model_max_length));
  }
  return tokenizer;
}

nlohmann::json to_json(const TokenizerReport& report) {
  return {{"kind", report.kind}, {"files", report.files}, {"notes", report.notes}};
}

std::string describe(const TokenizerReport& report) {
  std::string text = fmt::format("tokenizer: {} of {}\n", report.kind, fmt::join(report.files, ", "));
  for (const std::string& note : report.notes)
    text += fmt::format("       note: {}\n", note);
  return text;
}

}  // namespace sparsegrad::finetune
