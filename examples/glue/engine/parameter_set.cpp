#include "parameter_set.hpp"

#include <sparsegrad/backend/cpu_blas.hpp>

namespace sparsegrad::glue {

namespace {

struct Shape {
  std::string name;
  index_t rows;
  index_t cols;
  ParameterKind kind = ParameterKind::dense;
  bool joined = false;  ///< follows its predecessor without a gap
};

std::vector<Shape> shapes_of(const ModelConfig& c, index_t lora_rank) {
  std::vector<Shape> shapes;
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

bool is_vector(std::string_view name) {
  return name.ends_with(".bias") || name.find("LayerNorm.") != std::string_view::npos;
}

/// Offsets of pieces of memory, each aligned to 64 bytes unless joined to the one before.
class Layout {
 public:
  explicit Layout(std::size_t element) : step_(static_cast<index_t>(64 / element)) {}
  index_t take(index_t count, bool joined) {
    if (!joined) end_ = (end_ + step_ - 1) / step_ * step_;
    const index_t at = end_;
    end_ += count;
    return at;
  }
  index_t end() const { return end_; }

 private:
  index_t step_;
  index_t end_ = 0;
};

}  // namespace

std::string layer_parameter(const ModelConfig& config, index_t layer, std::string_view rest) {
  return config.prefix() + "encoder.layer." + std::to_string(layer) + "." + std::string(rest);
}

HeadNames head_names(const ModelConfig& config) {
  if (config.family == ModelFamily::roberta) return {"classifier.dense", "classifier.out_proj"};
  return {"bert.pooler.dense", "classifier"};
}

template <class T, class Backend>
ParameterSet<T, Backend>::ParameterSet(Context& ctx, const ModelConfig& config, const ParameterRule& trained,
                                       index_t lora_rank)
    : config_(config) {
  const std::vector<Shape> shapes = shapes_of(config, lora_rank);
  Layout weights(sizeof(T));
  Layout gradients(sizeof(T));
  std::vector<index_t> weight_at;
  std::vector<index_t> gradient_at;
  bool group_trained = false;
  for (const Shape& shape : shapes) {
    // Joined parameters are trained together: their gradient is one product.
    if (!shape.joined) {
      group_trained = shape.kind == ParameterKind::adapter ||
                      (shape.kind == ParameterKind::dense && (!trained || trained(shape.name)));
    }
    weight_at.push_back(weights.take(shape.rows * shape.cols, shape.joined));
    gradient_at.push_back(group_trained ? gradients.take(shape.rows * shape.cols, shape.joined) : -1);
  }
  weights_.resize(ctx, weights.end());
  gradients_.resize(ctx, gradients.end());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Shape& shape = shapes[i];
    Parameter<T> parameter;
    parameter.name = shape.name;
    parameter.kind = shape.kind;
    parameter.vector = is_vector(shape.name);
    parameter.weight = MatrixView<T>(weights_.data() + weight_at[i], shape.rows, shape.cols);
    if (gradient_at[i] >= 0) {
      parameter.gradient = MatrixView<T>(gradients_.data() + gradient_at[i], shape.rows, shape.cols);
    }
    parameters_.push_back(std::move(parameter));
  }
}

template <class T, class Backend>
const Parameter<T>* ParameterSet<T, Backend>::find(std::string_view name) const {
  for (const Parameter<T>& parameter : parameters_) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

template <class T, class Backend>
const Parameter<T>& ParameterSet<T, Backend>::at(std::string_view name) const {
  const Parameter<T>* found = find(name);
  if (found == nullptr) throw ModelError("the model has no parameter \"" + std::string(name) + "\"");
  return *found;
}

template <class T, class Backend>
Parameter<T>& ParameterSet<T, Backend>::at(std::string_view name) {
  return const_cast<Parameter<T>&>(std::as_const(*this).at(name));
}

template <class T, class Backend>
void ParameterSet<T, Backend>::zero_gradients(Context& ctx) {
  if (gradients_.empty()) return;
  ctx.parallel_ranges(gradients_.size(), index_t{1} << 16, [&](index_t begin, index_t end) {
    std::fill(gradients_.data() + begin, gradients_.data() + end, T(0));
  });
}

template <class T, class Backend>
index_t ParameterSet<T, Backend>::count() const {
  index_t sum = 0;
  for (const Parameter<T>& parameter : parameters_)
    sum += parameter.weight.size();
  return sum;
}

template <class T, class Backend>
typename ParameterSet<T, Backend>::Joined ParameterSet<T, Backend>::attention_inputs(index_t layer) {
  const index_t hidden = config_.hidden;
  const Parameter<T>& weight = at(layer_parameter(config_, layer, "attention.self.query.weight"));
  const Parameter<T>& bias = at(layer_parameter(config_, layer, "attention.self.query.bias"));
  Joined joined{
      MatrixView<T>(weight.weight.data, 3 * hidden, hidden), {}, bias.weight.data, bias.gradient.data};
  if (!weight.gradient.empty()) joined.d_weight = MatrixView<T>(weight.gradient.data, 3 * hidden, hidden);
  return joined;
}

template class ParameterSet<float, backend::CpuBlas>;
template class ParameterSet<double, backend::CpuBlas>;

}  // namespace sparsegrad::glue
