#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/config.hpp>

#include "models/layers/rope.hpp"
#include "models/model_error.hpp"

namespace sparsegrad::finetune {

/// The families differ in their biases and in what a config.json leaves out; the layers are the same.
enum class DecoderFamily { llama, mistral, qwen2 };
/// The "model_type" of config.json.
std::string_view to_string(DecoderFamily family);

/// Extents and constants of a decoder of the LLaMA family, as in a Hugging Face config.json.
struct DecoderConfig {
  DecoderFamily family = DecoderFamily::llama;
  index_t vocab_size = 0;
  index_t max_positions = 0;  ///< "max_position_embeddings": the longest sequence
  index_t layers = 0;         ///< blocks
  index_t hidden = 0;
  index_t intermediate = 0;
  index_t heads = 0;      ///< of the queries
  index_t kv_heads = 0;   ///< of keys and values; each serves heads / kv_heads heads of the queries
  index_t head_size = 0;  ///< even
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tied_embeddings = false;  ///< the head's matrix is the embeddings' table: there is no "lm_head.weight"
  bool qkv_bias = false;         ///< Qwen2, and "attention_bias" of LLaMA
  bool o_bias = false;           ///< "attention_bias" of LLaMA
  RopeConfig rope;

  /// Tokens that the model knows by number; -1: not said. Generation stops at any of `eos_token_ids`.
  std::int32_t bos_token_id = -1;
  std::vector<std::int32_t> eos_token_ids;
  std::int32_t pad_token_id = -1;

  /// Columns of q, and of k or v.
  index_t q_cols() const { return heads * head_size; }
  index_t kv_cols() const { return kv_heads * head_size; }

  /// Throws ModelError naming the field whose value is impossible; `source` begins the text.
  void check(std::string_view source) const;
};

}  // namespace sparsegrad::finetune
