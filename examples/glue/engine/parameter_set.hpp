#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/buffer.hpp>

#include "parameter_shapes.hpp"

namespace sparsegrad::glue {

/// A named parameter: a view of its part of the model's weights and of its gradient.
template <class T>
struct Parameter {
  std::string name;  ///< as in Hugging Face files
  ParameterKind kind = ParameterKind::dense;
  bool vector = false;  ///< stored with one dimension: biases and LayerNorm
  MatrixView<T> weight;
  MatrixView<T> gradient;  ///< empty: none is computed

  /// What weight decay usually leaves out.
  bool is_bias_or_norm() const { return vector; }
};

/// Chooses parameters by name.
using ParameterRule = std::function<bool(std::string_view name)>;

/// All parameters of a model, in one piece of memory, and the dense gradients of those that are trained, in
/// another. Matrices of the MLPs come last and have no gradient here.
template <class T, class Backend>
class ParameterSet {
 public:
  using Context = typename Backend::Context;

  /// Zeros. `trained` chooses the dense parameters that have a gradient (none given: all). `lora_rank` > 0: every MLP
  /// matrix has an adapter, which is trained.
  ParameterSet(Context& ctx, const ModelConfig& config, const ParameterRule& trained = {},
               index_t lora_rank = 0);

  std::vector<Parameter<T>>& all() { return parameters_; }
  const std::vector<Parameter<T>>& all() const { return parameters_; }

  /// Throws ModelError when there is none of that name.
  Parameter<T>& at(std::string_view name);
  const Parameter<T>& at(std::string_view name) const;
  const Parameter<T>* find(std::string_view name) const;

  /// Every weight, with alignment gaps that stay zero: for hashes and copies.
  MatrixView<T> weights() { return weights_.matrix(1, weights_.size()); }
  MatrixView<const T> weights() const { return weights_.matrix(1, weights_.size()); }
  /// Every dense gradient.
  MatrixView<T> gradients() { return gradients_.matrix(1, gradients_.size()); }

  void zero_gradients(Context& ctx);

  index_t weight_bytes() const { return weights_.bytes(); }
  index_t gradient_bytes() const { return gradients_.bytes(); }
  /// Numbers in all parameters.
  index_t count() const;

  /// The query, key and value weights of a layer as one matrix [3 hidden, hidden], and their biases.
  struct Joined {
    MatrixView<T> weight, d_weight;
    T* bias;
    T* d_bias;  ///< null: frozen
  };
  Joined attention_inputs(index_t layer);

 private:
  Buffer<T, Backend> weights_;
  Buffer<T, Backend> gradients_;
  std::vector<Parameter<T>> parameters_;
  ModelConfig config_;
};

}  // namespace sparsegrad::glue
