// A small language model with random weights, as a folder in Hugging Face form.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "checkpoints/decoder_folder.hpp"
#include "files.hpp"
#include "models/host_backend.hpp"

namespace sparsegrad::finetune::test {

inline constexpr const char* tiny_chat_template =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The printable characters of ASCII, a line's end and a blank, a merge, and the template's tokens: the files that
/// transformers has.
inline void write_tiny_tokenizer(const std::filesystem::path& folder,
                                 const std::string& chat_template = tiny_chat_template) {
  nlohmann::json vocabulary = nlohmann::json::object();
  int id = 0;
  vocabulary["<|im_start|>"] = id++;
  vocabulary["<|im_end|>"] = id++;
  for (char c = 33; c < 127; ++c)
    vocabulary[std::string(1, c)] = id++;
  vocabulary["\xC4\x8A"] = id++;  // a line's end
  vocabulary["\xC4\xA0"] = id++;  // a blank
  vocabulary["us"] = id++;
  nlohmann::json added = nlohmann::json::array();
  for (const char* token : {"<|im_start|>", "<|im_end|>"}) {
    added.push_back({{"id", vocabulary[token]},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const nlohmann::json bytes{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::json tokenizer{{"version", "1.0"},
                                 {"truncation", nullptr},
                                 {"padding", nullptr},
                                 {"added_tokens", added},
                                 {"normalizer", nullptr},
                                 {"pre_tokenizer", bytes},
                                 {"post_processor", nullptr},
                                 {"decoder", bytes},
                                 {"model",
                                  {{"type", "BPE"},
                                   {"dropout", nullptr},
                                   {"unk_token", nullptr},
                                   {"continuing_subword_prefix", nullptr},
                                   {"end_of_word_suffix", nullptr},
                                   {"fuse_unk", false},
                                   {"vocab", vocabulary},
                                   {"merges", {"u s"}}}}};
  write_file(folder / "tokenizer.json", tokenizer.dump());
  nlohmann::json config{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|im_end|>"}};
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  write_file(folder / "tokenizer_config.json", config.dump());
}

inline constexpr index_t tiny_decoder_tokens = 99;

/// Writes the folder and returns its path.
inline std::filesystem::path make_tiny_decoder(const std::filesystem::path& path,
                                               index_t rows = tiny_decoder_tokens,
                                               const std::string& chat_template = tiny_chat_template) {
  DecoderFolder folder;
  DecoderConfig& config = folder.config;
  config.vocab_size = rows;
  config.max_positions = 192;
  config.layers = 4;
  config.hidden = 32;
  config.intermediate = 48;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_size = 8;
  config.tied_embeddings = true;
  config.eos_token_ids = {1};
  write_tiny_tokenizer(path, chat_template);
  HostBackend::Context ctx(1);
  DecoderModel<float, HostBackend> model(ctx, config);
  model.initialize(5);
  // Livelier than the usual start, so that something is learnt within a few steps.
  for (Parameter<float>& p : model.parameters().all()) {
    if (p.name.find("norm") != std::string::npos) continue;
    for (index_t i = 0; i < p.weight.size(); ++i)
      p.weight.data[i] *= 5;
  }
  save_decoder(path, folder, model);
  return path;
}

/// Sums of two digits: JSON lines of question and answer.
inline std::filesystem::path write_sums(const std::filesystem::path& file, int examples = 60) {
  std::string text;
  for (int i = 0; i < examples; ++i) {
    const int a = i % 10;
    const int b = (7 * i + 3) % 10;
    text += nlohmann::json{{"question", std::to_string(a) + "+" + std::to_string(b) + "?"},
                           {"answer", "#### " + std::to_string(a + b)}}
                .dump() +
            "\n";
  }
  return write_file(file, text);
}

}  // namespace sparsegrad::finetune::test
