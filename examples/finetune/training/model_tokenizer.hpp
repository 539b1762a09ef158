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
/// ModelError as vocabulary_note does.
std::unique_ptr<Tokenizer> load_model_tokenizer(const std::filesystem::path& directory,
                                                const ModelConfig& config, index_t max_length,
                                                TokenizerReport& report);

/// Compares a tokenizer of `ids` ids, the last one's token `last`, with a model of `rows` word embeddings. Returns a note
/// where rows are left over, as where their number was rounded up: up to 512, or a 32nd of the ids. Throws ModelError
/// beginning with `source` where more are, or where ids have no row.
std::string vocabulary_note(const std::string& source, index_t ids, index_t rows, const std::string& last);

/// For the run's log: kind, files, notes.
nlohmann::json to_json(const TokenizerReport& report);

/// For people: a line of what was read, and a line for each note.
std::string describe(const TokenizerReport& report);

}  // namespace sparsegrad::finetune
