// Definitions of ParameterSet, for the files that instantiate it.
#pragma once

#include <utility>

#include "models/model_error.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Offsets of pieces of memory, each aligned to 64 bytes unless joined to the one before.
class ParameterLayout {
 public:
  explicit ParameterLayout(std::size_t element) : step_(static_cast<index_t>(64 / element)) {}
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

}  // namespace detail

template <class T, class Backend>
ParameterSet<T, Backend>::ParameterSet(Context& ctx, const std::vector<ParameterShape>& shapes,
                                       const ParameterRule& trained) {
  detail::ParameterLayout weights(sizeof(C));
  detail::ParameterLayout gradients(sizeof(C));
  detail::ParameterLayout rounded(sizeof(T));
  std::vector<index_t> weight_at;
  std::vector<index_t> gradient_at;
  std::vector<index_t> rounded_at;
  bool group_trained = false;
  for (const ParameterShape& shape : shapes) {
    // Joined parameters are trained together: their gradient is one product.
    if (!shape.joined) {
      group_trained = shape.kind == ParameterKind::adapter ||
                      (shape.kind == ParameterKind::dense && (!trained || trained(shape.name)));
    }
    if (shape.packed != nullptr) {
      if (group_trained || shape.joined)
        throw ModelError("parameter \"" + shape.name + "\" is packed, and cannot be trained");
      packed_bytes_ += static_cast<index_t>(shape.packed->bytes().size());
      for (auto* at : {&weight_at, &gradient_at, &rounded_at})
        at->push_back(-1);
      continue;
    }
    weight_at.push_back(weights.take(shape.rows * shape.cols, shape.joined));
    gradient_at.push_back(group_trained ? gradients.take(shape.rows * shape.cols, shape.joined) : -1);
    const bool copied = is_low_precision<T> && shape.is_factor();
    rounded_at.push_back(copied ? rounded.take(shape.rows * shape.cols, shape.joined) : -1);
  }
  weights_.resize(ctx, weights.end());
  gradients_.resize(ctx, gradients.end());
  rounded_.resize(ctx, rounded.end());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const ParameterShape& shape = shapes[i];
    Parameter<T> parameter;
    parameter.name = shape.name;
    parameter.kind = shape.kind;
    parameter.vector = shape.is_vector();
    parameter.packed = shape.packed;
    if (weight_at[i] < 0) {
      parameters_.push_back(std::move(parameter));
      continue;
    }
    parameter.weight = MatrixView<C>(weights_.data() + weight_at[i], shape.rows, shape.cols);
    if (gradient_at[i] >= 0) {
      parameter.gradient = MatrixView<C>(gradients_.data() + gradient_at[i], shape.rows, shape.cols);
    }
    if (rounded_at[i] >= 0) {
      parameter.rounded = MatrixView<T>(rounded_.data() + rounded_at[i], shape.rows, shape.cols);
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
  Backend::template zero<C>(ctx, gradients_.data(), gradients_.size());
}

template <class T, class Backend>
void ParameterSet<T, Backend>::round(Context& ctx, MatrixView<const C> changed) {
  if constexpr (is_low_precision<T>) {
    for (const Parameter<T>& p : parameters_) {
      const bool apart =
          p.weight.data + p.weight.size() <= changed.data || changed.data + changed.size() <= p.weight.data;
      if (!p.rounded.empty() && !apart) Backend::template round_to<T>(ctx, p.weight, p.rounded);
    }
  }
}

template <class T, class Backend>
void ParameterSet<T, Backend>::set_values(Context& ctx, MatrixView<C> matrix, std::span<const C> values) {
  if (static_cast<index_t>(values.size()) != matrix.size() || !matrix.contiguous())
    throw ModelError(std::to_string(values.size()) + " values were given for a matrix of " +
                     std::to_string(matrix.size()));
  if (values.empty()) return;
  Backend::template upload<C>(ctx, values.data(), matrix.data, matrix.size());
  round(ctx, matrix);
}

template <class T, class Backend>
std::vector<compute_t<T>> ParameterSet<T, Backend>::values(Context& ctx, MatrixView<const C> matrix) const {
  std::vector<C> values(static_cast<std::size_t>(matrix.size()));
  if (!values.empty()) Backend::template download<C>(ctx, matrix.data, values.data(), matrix.size());
  return values;
}

template <class T, class Backend>
index_t ParameterSet<T, Backend>::count() const {
  index_t sum = 0;
  for (const Parameter<T>& parameter : parameters_)
    sum += parameter.size();
  return sum;
}

template <class T, class Backend>
typename ParameterSet<T, Backend>::Joined ParameterSet<T, Backend>::joined(std::string_view weight,
                                                                           std::string_view bias,
                                                                           index_t count) const {
  const Parameter<T>& w = at(weight);
  const Parameter<T>& b = at(bias);
  const index_t rows = count * w.weight.rows;
  const index_t cols = w.weight.cols;
  Joined all{MatrixView<T>(w.factor().data, rows, cols), {}, b.weight.data, b.gradient.data};
  if (!w.gradient.empty()) all.d_weight = MatrixView<C>(w.gradient.data, rows, cols);
  return all;
}

}  // namespace sparsegrad::finetune
