#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/config.hpp>

#include "checkpoints/decoder_folder.hpp"
#include "checkpoints/gguf_file.hpp"
#include "models/decoder/decoder_config.hpp"
#include "models/parameters/packed_matrix.hpp"

// Decoders out of GGUF files. In short:
//   const GgufFile file("model.gguf");
//   const DecoderConfig config = gguf_config(file);
//   DecoderModel<float, HostBackend> model(ctx, config, trained);
//   load_gguf_weights(file, model, seed);
//   const auto tokenizer = gguf_tokenizer(file);

namespace sparsegrad::finetune {

/// The configuration of a file of the architecture "llama" (also Mistral's without a window) or "qwen2". The head is tied
/// where there is no "output.weight"; "rope_freqs.weight", in which files of LLaMA-3.1 and later keep the scaling of their
/// positions, is recognised. Throws IoError or ModelError naming the key or tensor: another architecture, an adapter, a
/// part of a split file, experts, a window of attention, another scaling.
DecoderConfig gguf_config(const GgufFile& file);

/// "general.architecture" of a file of such a model: "llama", of Mistral's too, or "qwen2".
std::string_view gguf_architecture(const DecoderConfig& config);

/// "rope_freqs.weight" [head_size / 2]: by what LLaMA-3's scaling divides the frequencies of the positions. Empty for
/// another scaling, of which metadata tell.
std::vector<float> gguf_rope_factors(const DecoderConfig& config);

/// The file's name of a parameter: "blk.3.ffn_up.weight" of "model.layers.3.mlp.up_proj.weight". Throws ModelError for
/// a name that a decoder does not have.
std::string gguf_name(std::string_view parameter);

/// Whether the file has the rows of this parameter's heads interleaved, see `gguf_parameter`.
bool has_interleaved_rows(const DecoderConfig& config, std::string_view parameter);
/// Where in such a parameter row `row` of Hugging Face's order stands: row half * head_size / 2 + j of a head is row
/// 2 j + half in the file.
constexpr index_t stored_row(index_t row, index_t head_size) {
  const index_t within = row % head_size;
  const index_t half = head_size / 2;
  return row - within + within % half * 2 + within / half;
}

/// Values of a parameter as Hugging Face has them, [rows, cols], or [cols] where `rows` is 0. Files of the architecture
/// "llama" hold the rows of q and k in another order, the two halves of a head interleaved (llama.cpp,
/// convert_hf_to_gguf.py, permute), which is undone. Throws IoError or ModelError naming the tensor: one that is missing,
/// of another shape, of a type that cannot be read, or with NaN or Inf.
std::vector<float> gguf_parameter(const GgufFile& file, const DecoderConfig& config,
                                  std::string_view parameter, index_t rows, index_t cols);

/// The rows of q or k, or of B of an adapter beside them, in the order of a GGUF file: what `gguf_parameter` undoes.
/// `values` [rows, cols] as Hugging Face has them, a bias as one column; other parameters and architectures keep their
/// order.
std::vector<float> gguf_row_order(const DecoderConfig& config, std::string_view parameter,
                                  std::span<const float> values, index_t cols);
/// The other way: from a GGUF file's order to Hugging Face's.
std::vector<float> hugging_face_row_order(const DecoderConfig& config, std::string_view parameter,
                                          std::span<const float> stored, index_t cols);

/// Throws ModelError naming the tensor where a packed parameter has NaN or Inf.
void require_finite(const GgufFile& file, std::string_view parameter, const PackedMatrix& packed);

/// The tensors that are not of these `used` names. Throws ModelError where one is of a block: the model is another one
/// then.
DecoderLoadReport unused_gguf_tensors(const GgufFile& file, const std::set<std::string, std::less<>>& used);

/// Fills the model's weights, but for packed ones (gguf_packed), which are looked through; adapters are initialised with
/// `seed`. Throws as `gguf_parameter` and `unused_gguf_tensors` do; the weights are unspecified then.
template <class Model>
DecoderLoadReport load_gguf_weights(const GgufFile& file, Model& model, std::uint64_t seed) {
  std::set<std::string, std::less<>> used;
  std::set<std::string, std::less<>> made;
  for (auto& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter) {
      made.insert(p.name);
      continue;
    }
    used.insert(gguf_name(p.name));
    if (p.packed != nullptr) {
      require_finite(file, p.name, *p.packed);
      continue;
    }
    const index_t rows = p.is_bias_or_norm() ? 0 : p.weight.rows;
    const std::vector<float> values = gguf_parameter(file, model.config(), p.name, rows, p.weight.cols);
    const std::vector<typename Model::C> converted(values.begin(), values.end());
    model.set_values(p.weight, converted);
  }
  model.initialize(seed, [&](std::string_view name) { return made.contains(name); });
  return unused_gguf_tensors(file, used);
}

}  // namespace sparsegrad::finetune
