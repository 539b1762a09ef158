// The tokenizer of a model's folder, and what people are told of it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "models/encoder/model_config.hpp"
#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::finetune {

/// Loads the tokenizer of `directory` for the model of `config` and texts of at most `max_length` tokens.
/// What does not fit, and yet does no harm, is told in the report's notes. Throws TokenizerError, and
/// ModelError where the tokenizer has ids for which the model has no word embeddings.
std::unique_ptr<Tokenizer> load_model_tokenizer(const std::filesystem::path& directory,
                                                const ModelConfig& config, index_t max_length,
                                                TokenizerReport& report);

/// For the run's log: kind, files, notes.
nlohmann::json to_json(const TokenizerReport& report);

/// For people: a line of what was read, and a line for each note.
std::string describe(const TokenizerReport& report);

}  // namespace sparsegrad::finetune
