#include "training/model_tokenizer.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace sparsegrad::finetune {

std::string vocabulary_note(const std::string& source, index_t ids, index_t rows, const std::string& last) {
  if (ids > rows) {
    throw ModelError(fmt::format(
        "{}: the tokenizer has ids up to {} (\"{}\"), the model's word embeddings only {} rows. Either the "
        "embeddings were not resized for added tokens (transformers' resize_token_embeddings), or the "
        "tokenizer is another model's: take the files that belong to the model",
        source, ids - 1, last, rows));
  }
  if (ids == rows) return "";
  // Numbers of rows are rounded up to multiples of 64 to 512; the most that is known is 2385 of 102 400 (DeepSeek LLM).
  const index_t most = std::max<index_t>(512, ids / 32);
  if (rows - ids > most) {
    throw ModelError(fmt::format(
        "{}: the model has {} word embeddings, the tokenizer ids for {} of them; expected at most {} rows "
        "without an id, which rounding up leaves. The tokenizer is another model's: take the files that "
        "belong to the model",
        source, rows, ids, most));
  }
  return fmt::format("the model has {} word embeddings, the tokenizer ids for {} of them", rows, ids);
}

std::unique_ptr<Tokenizer> load_model_tokenizer(const std::filesystem::path& directory,
                                                const ModelConfig& config, index_t max_length,
                                                TokenizerReport& report) {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(directory, &report);
  const auto ids = static_cast<index_t>(tokenizer->vocab_size());
  const auto note = [&](std::string text) { report.notes.push_back(std::move(text)); };
  std::string left_over = vocabulary_note(directory.string(), ids, config.vocab_size,
                                          tokenizer->token_of(static_cast<std::int32_t>(ids - 1)));
  if (!left_over.empty()) note(std::move(left_over));
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
