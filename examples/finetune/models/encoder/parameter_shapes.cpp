#include "models/encoder/parameter_shapes.hpp"

namespace sparsegrad::finetune {

std::string layer_parameter(const ModelConfig& config, index_t layer, std::string_view rest) {
  return config.prefix() + "encoder.layer." + std::to_string(layer) + "." + std::string(rest);
}

HeadNames head_names(const ModelConfig& config) {
  if (config.family == ModelFamily::roberta) return {"classifier.dense", "classifier.out_proj"};
  return {"bert.pooler.dense", "classifier"};
}

std::vector<ParameterShape> parameter_shapes(const ModelConfig& c, index_t lora_rank) {
  std::vector<ParameterShape> shapes;
  const auto add = [&](std::string name, index_t rows, index_t cols, bool joined = false) {
    shapes.push_back({std::move(name), rows, cols, ParameterKind::dense, joined});
  };
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", 1, c.hidden);
    add(name + ".bias", 1, c.hidden);
  };
  const std::string embeddings = c.prefix() + "embeddings.";
  add(embeddings + "word_embeddings.weight", c.vocab_size, c.hidden);
  add(embeddings + "position_embeddings.weight", c.max_positions, c.hidden);
  add(embeddings + "token_type_embeddings.weight", c.type_vocab_size, c.hidden);
  add_norm(embeddings + "LayerNorm");
  for (index_t l = 0; l < c.layers; ++l) {
    add(layer_parameter(c, l, "attention.self.query.weight"), c.hidden, c.hidden);
    add(layer_parameter(c, l, "attention.self.key.weight"), c.hidden, c.hidden, true);
    add(layer_parameter(c, l, "attention.self.value.weight"), c.hidden, c.hidden, true);
    add(layer_parameter(c, l, "attention.self.query.bias"), 1, c.hidden);
    add(layer_parameter(c, l, "attention.self.key.bias"), 1, c.hidden, true);
    add(layer_parameter(c, l, "attention.self.value.bias"), 1, c.hidden, true);
    add(layer_parameter(c, l, "attention.output.dense.weight"), c.hidden, c.hidden);
    add(layer_parameter(c, l, "attention.output.dense.bias"), 1, c.hidden);
    add_norm(layer_parameter(c, l, "attention.output.LayerNorm"));
    add(layer_parameter(c, l, "intermediate.dense.bias"), 1, c.intermediate);
    add(layer_parameter(c, l, "output.dense.bias"), 1, c.hidden);
    add_norm(layer_parameter(c, l, "output.LayerNorm"));
  }
  const HeadNames head = head_names(c);
  add(head.dense + ".weight", c.hidden, c.hidden);
  add(head.dense + ".bias", 1, c.hidden);
  add(head.output + ".weight", c.num_labels, c.hidden);
  add(head.output + ".bias", 1, c.num_labels);
  const auto add_adapter = [&](const std::string& matrix, index_t out, index_t in) {
    add(matrix + ".lora_A.weight", lora_rank, in);
    shapes.back().kind = ParameterKind::adapter;
    add(matrix + ".lora_B.weight", out, lora_rank);
    shapes.back().kind = ParameterKind::adapter;
  };
  for (index_t l = 0; l < c.layers && lora_rank > 0; ++l) {
    add_adapter(layer_parameter(c, l, "intermediate.dense"), c.intermediate, c.hidden);
    add_adapter(layer_parameter(c, l, "output.dense"), c.hidden, c.intermediate);
  }
  for (index_t l = 0; l < c.layers; ++l) {
    add(layer_parameter(c, l, "intermediate.dense.weight"), c.intermediate, c.hidden);
    shapes.back().kind = ParameterKind::mlp_matrix;
    add(layer_parameter(c, l, "output.dense.weight"), c.hidden, c.intermediate);
    shapes.back().kind = ParameterKind::mlp_matrix;
  }
  return shapes;
}

}  // namespace sparsegrad::finetune
