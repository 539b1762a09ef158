#include "models/decoder/decoder_names.hpp"

#include <set>
#include <utility>

namespace sparsegrad::finetune {

std::string block_parameter(index_t block, std::string_view rest) {
  return "model.layers." + std::to_string(block) + "." + std::string(rest);
}

std::string matrix_name(index_t block, MatrixKind kind) {
  const std::string_view folder = kind < MatrixKind::gate ? "self_attn." : "mlp.";
  return block_parameter(block, std::string(folder) + std::string(to_string(kind)) + "_proj.weight");
}

MatrixExtents matrix_extents(const DecoderConfig& c, MatrixKind kind) {
  switch (kind) {
    case MatrixKind::q:
      return {c.q_cols(), c.hidden};
    case MatrixKind::k:
    case MatrixKind::v:
      return {c.kv_cols(), c.hidden};
    case MatrixKind::o:
      return {c.hidden, c.q_cols()};
    case MatrixKind::down:
      return {c.hidden, c.intermediate};
    default:
      return {c.intermediate, c.hidden};
  }
}

std::vector<ParameterShape> decoder_shapes(const DecoderConfig& c, const MatrixChoice& choice,
                                           index_t lora_rank) {
  std::vector<ParameterShape> shapes;
  const auto add = [&](std::string name, index_t rows, index_t cols,
                       ParameterKind kind = ParameterKind::dense) -> ParameterShape& {
    shapes.push_back({std::move(name), rows, cols, kind});
    return shapes.back();
  };
  add("model.embed_tokens.weight", c.vocab_size, c.hidden).read_by_products = c.tied_embeddings;
  for (index_t l = 0; l < c.layers; ++l) {
    add(block_parameter(l, "input_layernorm.weight"), 1, c.hidden);
    if (c.qkv_bias) {
      // One array, as the passes over q, k and v read it.
      add(block_parameter(l, "self_attn.q_proj.bias"), 1, c.q_cols());
      add(block_parameter(l, "self_attn.k_proj.bias"), 1, c.kv_cols()).joined = true;
      add(block_parameter(l, "self_attn.v_proj.bias"), 1, c.kv_cols()).joined = true;
    }
    if (c.o_bias) add(block_parameter(l, "self_attn.o_proj.bias"), 1, c.hidden);
    add(block_parameter(l, "post_attention_layernorm.weight"), 1, c.hidden);
  }
  add("model.norm.weight", 1, c.hidden);
  if (!c.tied_embeddings) add("lm_head.weight", c.vocab_size, c.hidden);
  for (index_t l = 0; l < c.layers && lora_rank > 0; ++l) {
    for (const MatrixKind kind : all_matrix_kinds) {
      if (!choice.contains(l, kind)) continue;
      const std::string name = matrix_name(l, kind);
      const std::string matrix = name.substr(0, name.rfind(".weight"));
      const MatrixExtents extents = matrix_extents(c, kind);
      add(matrix + ".lora_A.weight", lora_rank, extents.in, ParameterKind::adapter);
      add(matrix + ".lora_B.weight", extents.out, lora_rank, ParameterKind::adapter);
    }
  }
  for (index_t l = 0; l < c.layers; ++l) {
    for (const MatrixKind kind : all_matrix_kinds) {
      const MatrixExtents extents = matrix_extents(c, kind);
      add(matrix_name(l, kind), extents.out, extents.in, ParameterKind::mlp_matrix);
    }
  }
  return shapes;
}

void keep_packed(std::vector<ParameterShape>& shapes, const TrainedParts& trained,
                 const PackedMatrices& packed) {
  if (!packed) return;
  std::set<std::string> in_place;
  for (const index_t block : trained.matrices.blocks) {
    for (const MatrixKind kind : trained.matrices.kinds)
      if (trained.mlp.matrices && !trained.mlp.sparsely) in_place.insert(matrix_name(block, kind));
  }
  for (ParameterShape& shape : shapes) {
    const bool is_matrix = shape.kind == ParameterKind::mlp_matrix && !in_place.contains(shape.name);
    const bool is_table = shape.kind == ParameterKind::dense && !shape.is_vector() && trained.dense &&
                          !trained.dense(shape.name);
    if (is_matrix || is_table) shape.packed = packed(shape.name);
  }
}

}  // namespace sparsegrad::finetune
