#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/buffer.hpp>
#include <sparsegrad/core/low_precision.hpp>

#include "models/parameters/parameter_shape.hpp"

namespace sparsegrad::finetune {

/// A named parameter: a view of its part of the model's weights and of its gradient. Weights are trained, and kept in
/// files, in C = compute_t<T>. Where T is narrower, matrix products read a copy of their operands that is rounded to T;
/// biases, LayerNorm and the embeddings' tables, which no product reads, have none.
template <class T>
struct Parameter {
  using C = compute_t<T>;
  std::string name;  ///< as in Hugging Face files
  ParameterKind kind = ParameterKind::dense;
  bool vector = false;  ///< stored with one dimension: biases and LayerNorm
  MatrixView<C> weight;
  MatrixView<C> gradient;                      ///< empty: none is computed
  MatrixView<T> rounded;                       ///< of a narrow T: the weight rounded, where products read it
  std::shared_ptr<const PackedMatrix> packed;  ///< given: in place of the three, which are empty then

  /// The weight as an operand of products.
  MatrixView<T> factor() const {
    if constexpr (is_low_precision<T>) {
      return rounded;
    } else {
      return weight;
    }
  }

  index_t rows() const { return packed != nullptr ? packed->rows() : weight.rows; }
  index_t cols() const { return packed != nullptr ? packed->cols() : weight.cols; }
  index_t size() const { return rows() * cols(); }

  /// What weight decay usually leaves out.
  bool is_bias_or_norm() const { return vector; }
};

/// Chooses parameters by name.
using ParameterRule = std::function<bool(std::string_view name)>;

/// All parameters of a model but packed ones, in one piece of memory, and the dense gradients of those that are trained, in
/// another. Matrices of the MLPs have no gradient here.
template <class T, class Backend>
class ParameterSet {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;

  /// Zeros, in the order of `shapes`. `trained` chooses the dense parameters that have a gradient (none given: all);
  /// adapters always have one.
  ParameterSet(Context& ctx, const std::vector<ParameterShape>& shapes, const ParameterRule& trained = {});

  std::vector<Parameter<T>>& all() { return parameters_; }
  const std::vector<Parameter<T>>& all() const { return parameters_; }

  /// Throws ModelError when there is none of that name.
  Parameter<T>& at(std::string_view name);
  const Parameter<T>& at(std::string_view name) const;
  const Parameter<T>* find(std::string_view name) const;

  /// Every weight that is not packed, with alignment gaps that stay zero: for hashes and copies.
  MatrixView<C> weights() { return weights_.matrix(1, weights_.size()); }
  MatrixView<const C> weights() const { return weights_.matrix(1, weights_.size()); }
  /// Every dense gradient.
  MatrixView<C> gradients() { return gradients_.matrix(1, gradients_.size()); }

  void zero_gradients(Context& ctx);
  /// After weights in `changed` were written other than by AdamW or a layer's step: rounds their copies anew.
  void round(Context& ctx, MatrixView<const C> changed);

  /// Copies host memory to a matrix of this set's, with its rounded copy. Throws ModelError where `values` are of another
  /// number.
  void set_values(Context& ctx, MatrixView<C> matrix, std::span<const C> values);
  /// A matrix of this set's, in host memory.
  std::vector<C> values(Context& ctx, MatrixView<const C> matrix) const;

  /// Of packed ones the bytes of their file.
  index_t weight_bytes() const { return weights_.bytes() + rounded_.bytes() + packed_bytes_; }
  index_t gradient_bytes() const { return gradients_.bytes(); }
  /// Numbers in all parameters.
  index_t count() const;

  /// Matrices of one shape that were laid out joined, `count` from the one of this name on, as one matrix, and the
  /// biases likewise: the query, key and value weights of a layer, [3 hidden, hidden].
  struct Joined {
    MatrixView<T> weight;
    MatrixView<C> d_weight;
    C* bias;
    C* d_bias;  ///< null: frozen
  };
  Joined joined(std::string_view weight, std::string_view bias, index_t count) const;

 private:
  Buffer<C, Backend> weights_;
  Buffer<C, Backend> gradients_;
  Buffer<T, Backend> rounded_;
  index_t packed_bytes_ = 0;
  std::vector<Parameter<T>> parameters_;
};

}  // namespace sparsegrad::finetune
