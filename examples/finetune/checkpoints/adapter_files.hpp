#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <sparsegrad/io/dtype.hpp>

#include "models/decoder/decoder_names.hpp"

namespace sparsegrad::finetune {

/// What a LoRA adds to a matrix of a decoder: W' = W + scale B A.
struct AdapterMatrix {
  index_t block = 0;
  MatrixKind kind = MatrixKind::up;
  MatrixExtents extents;
  std::vector<float> a;  ///< [rank, in]
  std::vector<float> b;  ///< [out, rank]
};

/// A LoRA beside some kinds of matrices in some blocks, each of the kinds in each of the blocks.
struct Adapter {
  index_t rank = 0;
  double scale = 1;
  std::vector<AdapterMatrix> matrices;
};

/// values [rows, cols] with zeros behind them, [to_rows, to_cols]: a factor of lower rank among others.
std::vector<float> zero_padded(std::span<const float> values, index_t rows, index_t cols, index_t to_rows,
                               index_t to_cols);

/// Writes a folder that the Python package peft loads: adapter_model.safetensors (of F32, BF16 or F16) and
/// adapter_config.json, which names `base` as the model and has lora_alpha = scale r. Throws ModelError or IoError.
void write_peft_adapter(const std::filesystem::path& folder, const Adapter& adapter, const std::string& base,
                        io::DType type);

/// Writes the GGUF file that llama.cpp's --lora takes: "general.type" adapter, "adapter.type" lora, "adapter.lora.alpha"
/// scale times rank, and "blk.0.ffn_up.weight.lora_a" and ".lora_b" (llama.cpp, convert_lora_to_gguf.py).
/// B's rows beside q and k are in the order of GGUF files (`gguf_row_order`). Throws IoError.
void write_gguf_adapter(const std::filesystem::path& file, const Adapter& adapter,
                        const DecoderConfig& config, io::DType type);

}  // namespace sparsegrad::finetune
