// A small BERT with random weights in Hugging Face form, and a vocabulary for the built-in sentences.
#pragma once

#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "models/host_backend.hpp"

#include "checkpoints/hf_directory.hpp"
#include "data/builtin_acceptability.hpp"

namespace sparsegrad::finetune::test {

struct TinyBert {
  index_t layers = 2;
  index_t hidden = 32;
  index_t heads = 4;
  index_t intermediate = 64;
};

/// Special tokens, letters, and every word of the built-in training sentences.
inline std::vector<std::string> tiny_vocabulary() {
  std::vector<std::string> tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  std::set<std::string> words;
  for (char c = 'a'; c <= 'z'; ++c) {
    words.insert(std::string(1, c));
    words.insert(std::string("##") + c);
  }
  for (const Example& example : builtin_acceptability(Split::train).examples) {
    std::string word;
    for (const char c : example.a + " ") {
      if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
        word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        continue;
      }
      if (!word.empty()) words.insert(word);
      word.clear();
      if (std::isspace(static_cast<unsigned char>(c)) == 0) words.insert(std::string(1, c));
    }
  }
  tokens.insert(tokens.end(), words.begin(), words.end());
  return tokens;
}

/// Writes the directory and returns its path.
inline std::filesystem::path make_tiny_bert(const std::filesystem::path& path, const TinyBert& extents = {},
                                            std::uint64_t seed = 7) {
  std::filesystem::create_directories(path);
  const std::vector<std::string> vocabulary = tiny_vocabulary();
  std::ofstream vocab(path / "vocab.txt", std::ios::binary);
  for (const std::string& token : vocabulary)
    vocab << token << "\n";
  vocab.close();
  ModelDirectory directory;
  directory.path = path;
  directory.config.vocab_size = static_cast<index_t>(vocabulary.size());
  directory.config.max_positions = 128;
  directory.config.layers = extents.layers;
  directory.config.hidden = extents.hidden;
  directory.config.heads = extents.heads;
  directory.config.intermediate = extents.intermediate;
  directory.config_json = to_json(directory.config);
  HostBackend::Context ctx(1);
  EncoderModel<float, HostBackend> model(ctx, directory.config);
  model.initialize(seed);
  // Livelier than the usual start, so that something is learnt within a few steps.
  for (Parameter<float>& p : model.parameters().all()) {
    if (p.is_bias_or_norm()) continue;
    for (index_t i = 0; i < p.weight.size(); ++i)
      p.weight.data[i] *= 5;
  }
  save_model(path, directory, model);
  return path;
}

}  // namespace sparsegrad::finetune::test
