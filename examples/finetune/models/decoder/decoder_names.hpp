#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/decoder/decoder_config.hpp"
#include "models/mlp/matrix_choice.hpp"
#include "models/model_passes.hpp"
#include "models/parameters/parameter_shape.hpp"

namespace sparsegrad::finetune {

/// "model.layers.3." and what follows.
std::string block_parameter(index_t block, std::string_view rest);
/// "model.layers.3.mlp.up_proj.weight".
std::string matrix_name(index_t block, MatrixKind kind);
/// [out, in] of a block's matrix.
struct MatrixExtents {
  index_t out = 0;
  index_t in = 0;
};
MatrixExtents matrix_extents(const DecoderConfig& config, MatrixKind kind);

/// All parameters of a decoder in the order of their memory, with adapters of `lora_rank` > 0 beside the chosen matrices.
///
///     model.embed_tokens.weight [vocab, hidden]
///     of each block: input_layernorm.weight, self_attn.{q,k,v,o}_proj.bias where there are such,
///       post_attention_layernorm.weight
///     model.norm.weight, lm_head.weight [vocab, hidden] where it is not tied
///     adapters MATRIX.lora_A.weight and .lora_B.weight
///     of each block: self_attn.{q,k,v,o}_proj.weight, mlp.{gate,up,down}_proj.weight
std::vector<ParameterShape> decoder_shapes(const DecoderConfig& config, const MatrixChoice& choice,
                                           index_t lora_rank);

/// Gives matrices and tables that `trained` does not train in place their packed form, where they have one.
void keep_packed(std::vector<ParameterShape>& shapes, const TrainedParts& trained,
                 const PackedMatrices& packed);

}  // namespace sparsegrad::finetune
