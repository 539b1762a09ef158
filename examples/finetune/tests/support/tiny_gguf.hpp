// A small quantised language model with random weights, as a GGUF file.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/core/low_precision.hpp>

#include "checkpoints/gguf_model.hpp"
#include "gguf_bytes.hpp"
#include "models/decoder/decoder_names.hpp"
#include "models/layers/random.hpp"
#include "support/tiny_decoder.hpp"

namespace sparsegrad::finetune::test {

/// Random blocks of a type of 32 elements or one, of values of about a tenth.
inline std::string random_blocks(std::uint32_t type, index_t rows, index_t cols, std::uint64_t seed) {
  const GgufType& t = *find_gguf_type(type);
  std::string bytes;
  std::uint64_t number = 0;
  for (index_t block = 0; block < rows * cols / t.block; ++block) {
    const std::size_t at = bytes.size();
    for (index_t i = 0; i < t.block_bytes; ++i)
      bytes += static_cast<char>(mix_bits(seed * 7919 + ++number));
    const auto half = [&](std::size_t offset, double value) {
      const auto bits = float16(static_cast<float>(value)).bits;
      std::memcpy(bytes.data() + at + offset, &bits, sizeof bits);
    };
    const double scale = 0.01 + 0.0001 * static_cast<double>(number % 97);
    if (t.block == 1) {
      half(0, 20 * scale * (number % 2 == 0 ? 1 : -1));
    } else {
      half(0, t.name == "Q8_0" ? scale / 8 : scale);
      if (t.name.ends_with("_1")) half(2, (t.name == "Q5_1" ? -16 : -8) * scale);
    }
  }
  return bytes;
}

/// A model of 4 blocks of width 32, each matrix of another type, with the tokenizer of write_tiny_tokenizer.
inline GgufModel tiny_gguf(const std::string& family = "llama", bool tied = true) {
  GgufModel model;
  model.text("general.architecture", family);
  const std::string prefix = family + ".";
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, std::uint32_t>>{{"context_length", 192},
                                                          {"block_count", 4},
                                                          {"embedding_length", 32},
                                                          {"feed_forward_length", 64},
                                                          {"attention.head_count", 4},
                                                          {"attention.head_count_kv", 2},
                                                          {"attention.key_length", 8},
                                                          {"attention.value_length", 8}})
    model.number(prefix + key, value);
  model.real(prefix + "attention.layer_norm_rms_epsilon", 1e-5F);
  std::vector<std::string> tokens{"<|im_start|>", "<|im_end|>"};
  for (char c = 33; c < 127; ++c)
    tokens.emplace_back(1, c);
  for (const char* token : {"\xC4\x8A", "\xC4\xA0", "us"})
    tokens.emplace_back(token);
  std::vector<std::int32_t> types(tokens.size(), 1);
  types[0] = types[1] = 3;
  model.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  model.texts("tokenizer.ggml.tokens", tokens).numbers("tokenizer.ggml.token_type", types);
  model.texts("tokenizer.ggml.merges", {"u s"}).number("tokenizer.ggml.eos_token_id", 1);
  model.text("tokenizer.chat_template", tiny_chat_template);

  DecoderConfig config;
  config.vocab_size = tiny_decoder_tokens;
  config.layers = 4;
  config.hidden = 32;
  config.intermediate = 64;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_size = 8;
  config.tied_embeddings = tied;
  config.qkv_bias = family == "qwen2";
  // q: Q4_1, k: Q8_0, v: F16, o: Q5_0, gate: Q4_0, up: Q5_1, down: Q8_0
  constexpr std::array<std::uint32_t, 7> of_kind{3, 8, 1, 6, 2, 7, 8};
  std::uint64_t seed = 0;
  for (const ParameterShape& shape : decoder_shapes(config, {}, 0)) {
    const std::string name = gguf_name(shape.name);
    if (shape.is_vector()) {
      model.tensor(name, {static_cast<std::uint64_t>(shape.cols)},
                   shape.name.ends_with(".bias") ? 0.05F : 1.1F);
      continue;
    }
    std::uint32_t type = 8;
    for (const MatrixKind kind : all_matrix_kinds) {
      if (shape.name.find("." + std::string(to_string(kind)) + "_proj.") != std::string::npos)
        type = of_kind[static_cast<std::size_t>(kind)];
    }
    model.tensor(name, {static_cast<std::uint64_t>(shape.cols), static_cast<std::uint64_t>(shape.rows)}, type,
                 random_blocks(type, shape.rows, shape.cols, ++seed));
  }
  return model;
}

}  // namespace sparsegrad::finetune::test
