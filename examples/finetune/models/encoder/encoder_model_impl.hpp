// Definitions of EncoderModel, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "models/encoder/encoder_model.hpp"

namespace sparsegrad::glue {

namespace detail {

template <class T, class Backend>
Linear<T, Backend> linear_of(ParameterSet<T, Backend>& parameters, const std::string& name) {
  Parameter<T>& p = parameters.at(name);
  return {p.factor(), p.gradient};
}

template <class T, class Backend>
LayerNorm<compute_t<T>> norm_of(ParameterSet<T, Backend>& parameters, const std::string& name, double eps) {
  const Parameter<T>& gamma = parameters.at(name + ".weight");
  const Parameter<T>& beta = parameters.at(name + ".bias");
  return {gamma.weight.data, beta.weight.data, gamma.gradient.data, beta.gradient.data,
          static_cast<compute_t<T>>(eps)};
}

inline const ModelConfig& checked(const ModelConfig& config) {
  config.check("model configuration");
  return config;
}

}  // namespace detail

template <class T, class Backend>
EncoderModel<T, Backend>::EncoderModel(Context& ctx, const ModelConfig& config, TrainedParts trained)
    : ctx_(ctx),
      config_(detail::checked(config)),
      trained_(std::move(trained)),
      parameters_(ctx, config_, trained_.dense, trained_.lora_rank),
      attention_{config_.heads, config_.head_size()} {
  if (trained_.lora_rank > 0 && trained_.mlp_matrices)
    throw ModelError("an adapter of rank " + std::to_string(trained_.lora_rank) +
                     " was asked for beside trained MLP matrices, expected constant ones");
  bind();
  if (trained_.mlp_matrices) {
    for (index_t number = 0; number < 2 * config_.layers; ++number) {
      const Parameter<T>& p = parameters_.at(mlp_name(number));
      if constexpr (is_narrow<T>) {
        mlp_.emplace_back(ctx, p.rounded, p.weight, nullptr);
      } else {
        mlp_.emplace_back(ctx, p.weight, nullptr);
      }
    }
  }
  const std::vector<C> ones(static_cast<std::size_t>(config_.hidden), C(1));
  for (Parameter<T>& p : parameters_.all()) {
    if (p.name.ends_with("LayerNorm.weight")) set_values(p.weight, ones);
  }
}

template <class T, class Backend>
void EncoderModel<T, Backend>::bind() {
  auto& p = parameters_;
  const std::string tables = config_.prefix() + "embeddings.";
  const Parameter<T> word = p.at(tables + "word_embeddings.weight");
  const Parameter<T> position = p.at(tables + "position_embeddings.weight");
  const Parameter<T> type = p.at(tables + "token_type_embeddings.weight");
  const auto positions = [&](MatrixView<C> table) {
    return table.empty() ? table
                         : table.block(config_.first_position(), 0, config_.longest_sequence(), table.cols);
  };
  const double eps = config_.layer_norm_eps;
  embeddings_ = {word.weight,
                 positions(position.weight),
                 type.weight,
                 word.gradient,
                 positions(position.gradient),
                 type.gradient,
                 detail::norm_of(p, tables + "LayerNorm", eps)};
  for (index_t l = 0; l < config_.layers; ++l) {
    const auto name = [&](const char* rest) { return layer_parameter(config_, l, rest); };
    const auto joined = p.attention_inputs(l);
    LayerParameters layer;
    layer.qkv = {joined.weight, joined.d_weight};
    layer.qkv_bias = joined.bias;
    layer.d_qkv_bias = joined.d_bias;
    layer.attention_output = detail::linear_of(p, name("attention.output.dense.weight"));
    layer.up = detail::linear_of(p, name("intermediate.dense.weight"));
    layer.down = detail::linear_of(p, name("output.dense.weight"));
    const auto bias = [&](const char* rest, const C*& value, C*& gradient) {
      Parameter<T>& b = p.at(name(rest));
      value = b.weight.data;
      gradient = b.gradient.data;
    };
    bias("attention.output.dense.bias", layer.attention_output_bias, layer.d_attention_output_bias);
    bias("intermediate.dense.bias", layer.up_bias, layer.d_up_bias);
    bias("output.dense.bias", layer.down_bias, layer.d_down_bias);
    layer.norm1 = detail::norm_of(p, name("attention.output.LayerNorm"), eps);
    layer.norm2 = detail::norm_of(p, name("output.LayerNorm"), eps);
    const auto adapter = [&](const char* matrix, Lora<T, Backend>& lora) {
      const Parameter<T>& a = p.at(name(matrix) + ".lora_A.weight");
      const Parameter<T>& b = p.at(name(matrix) + ".lora_B.weight");
      lora = {a.factor(), b.factor(), a.gradient, b.gradient, static_cast<C>(trained_.lora_scale)};
    };
    if (trained_.lora_rank > 0) {
      adapter("intermediate.dense", layer.lora_up);
      adapter("output.dense", layer.lora_down);
    }
    layers_.push_back(layer);
  }
  const HeadNames names = head_names(config_);
  const Parameter<T>& pooler_bias = p.at(names.dense + ".bias");
  pooler_ = {detail::linear_of(p, names.dense + ".weight"), pooler_bias.weight.data,
             pooler_bias.gradient.data};
  const Parameter<T>& head_bias = p.at(names.output + ".bias");
  head_ = {detail::linear_of(p, names.output + ".weight"), head_bias.weight.data, head_bias.gradient.data};
}

template <class T, class Backend>
void EncoderModel<T, Backend>::initialize(std::uint64_t seed) {
  initialize(seed, [](std::string_view) { return true; });
}

template <class T, class Backend>
void EncoderModel<T, Backend>::initialize(std::uint64_t seed, const ParameterRule& which) {
  std::uint64_t number = 0;
  for (const Parameter<T>& p : parameters_.all()) {
    const std::uint64_t key = stream_key(seed, ++number);
    if (which(p.name)) set_values(p.weight, initial_values(p, key));
  }
}

template <class T, class Backend>
std::vector<compute_t<T>> EncoderModel<T, Backend>::initial_values(const Parameter<T>& p,
                                                                   std::uint64_t key) const {
  const auto count = static_cast<std::size_t>(p.weight.size());
  if (p.is_bias_or_norm()) return std::vector<C>(count, p.name.ends_with(".weight") ? C(1) : C(0));
  if (p.kind == ParameterKind::adapter) return initial_adapter(p, key);
  std::vector<C> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<C>(config_.initializer_range * normal_at(key, i));
  const bool padded =
      p.name.ends_with("word_embeddings.weight") ||
      (config_.family == ModelFamily::roberta && p.name.ends_with("position_embeddings.weight"));
  if (padded && config_.pad_token_id >= 0 && config_.pad_token_id < p.weight.rows)
    std::fill_n(values.data() + config_.pad_token_id * p.weight.cols, p.weight.cols, C(0));
  return values;
}

template <class T, class Backend>
std::vector<compute_t<T>> EncoderModel<T, Backend>::initial_adapter(const Parameter<T>& p,
                                                                    std::uint64_t key) const {
  std::vector<C> values(static_cast<std::size_t>(p.weight.size()));
  if (p.name.ends_with(".lora_B.weight")) return values;
  const double edge = 1 / std::sqrt(static_cast<double>(p.weight.cols));
  const double deviation = 1 / static_cast<double>(p.weight.rows);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<C>(trained_.lora_init == LoraInit::kaiming ? edge * (2 * uniform_at(key, i) - 1)
                                                                       : deviation * normal_at(key, i));
  }
  return values;
}

template <class T, class Backend>
void EncoderModel<T, Backend>::set_values(MatrixView<C> matrix, std::span<const C> values) {
  if (static_cast<index_t>(values.size()) != matrix.size() || !matrix.contiguous())
    throw ModelError(std::to_string(values.size()) + " values were given for a matrix of " +
                     std::to_string(matrix.size()));
  if (values.empty()) return;
  Backend::template upload<C>(ctx_, values.data(), matrix.data, matrix.size());
  parameters_.round(ctx_, matrix);
}

template <class T, class Backend>
std::vector<compute_t<T>> EncoderModel<T, Backend>::values(MatrixView<const C> matrix) const {
  std::vector<C> values(static_cast<std::size_t>(matrix.size()));
  if (!values.empty()) Backend::template download<C>(ctx_, matrix.data, values.data(), matrix.size());
  return values;
}

template <class T, class Backend>
std::vector<compute_t<T>> EncoderModel<T, Backend>::merged(const Parameter<T>& parameter) const {
  std::vector<C> product = values(parameter.weight);
  const std::string matrix = parameter.name.substr(0, parameter.name.size() - std::string(".weight").size());
  const MatrixView<const C> on_backend_a = parameters_.at(matrix + ".lora_A.weight").weight;
  const MatrixView<const C> on_backend_b = parameters_.at(matrix + ".lora_B.weight").weight;
  const std::vector<C> host_a = values(on_backend_a);
  const std::vector<C> host_b = values(on_backend_b);
  const MatrixView<const C> a(host_a.data(), on_backend_a.rows, on_backend_a.cols);
  const MatrixView<const C> b(host_b.data(), on_backend_b.rows, on_backend_b.cols);
  for (index_t i = 0; i < b.rows; ++i) {
    C* row = product.data() + i * a.cols;
    for (index_t r = 0; r < a.rows; ++r) {
      const C factor = static_cast<C>(trained_.lora_scale) * b(i, r);
      for (index_t j = 0; j < a.cols; ++j)
        row[j] += factor * a(r, j);
    }
  }
  return product;
}

template <class T, class Backend>
std::vector<index_t> EncoderModel<T, Backend>::kept_cols() const {
  std::vector<index_t> kept(static_cast<std::size_t>(2 * config_.layers), 0);
  for (std::size_t i = 0; i < mlp_.size(); ++i)
    kept[i] = mlp_[i].kept_cols();
  return kept;
}

template <class T, class Backend>
void EncoderModel<T, Backend>::reserve(Context& ctx, index_t max_tokens, index_t max_sequences,
                                       index_t max_length, bool training) {
  max_tokens_ = std::max<index_t>(max_tokens, 1);
  max_sequences_ = std::max<index_t>(max_sequences, 1);
  max_length_ = std::max<index_t>(max_length, 1);
  room_for_training_ = training;
  lay_out(ctx);
  for (MlpLayer& layer : mlp_)
    layer.reserve(ctx, max_tokens_);
  placed_.reserve(ctx, max_tokens_, max_sequences_);
  const auto outputs = static_cast<std::size_t>(max_sequences_ * config_.num_labels);
  host_logits_.resize(outputs);
  host_d_logits_.resize(outputs);
  ctx.scratch().reserve(
      Ops::template scratch_bytes<T>(max_tokens_, std::max(3 * config_.hidden, config_.intermediate)));
}

template <class T, class Backend>
void EncoderModel<T, Backend>::lay_out(Context& ctx) {
  const bool training = room_for_training_;
  const index_t hidden = config_.hidden;
  const index_t wide = config_.intermediate;
  laid_out_kept_ = kept_cols();
  activations_.assign(static_cast<std::size_t>(config_.layers), {});
  backward_possible_ = false;

  // First pass: sizes; second pass: addresses.
  for (const bool placing : {false, true}) {
    index_t end = 0;
    const auto take = [&]<class V>(V*& piece, index_t rows, index_t cols) {
      constexpr index_t step = 64 / static_cast<index_t>(sizeof(V));
      if (placing) piece = reinterpret_cast<V*>(arena_.data() + end);
      end += (rows * cols + step - 1) / step * (64 / static_cast<index_t>(sizeof(C)));
    };
    const index_t tokens = max_tokens_;
    // Evaluation lets all layers share one set, with two places for the states that pass from layer to layer.
    LayerActivations shared{};
    T* states[2] = {};
    take(embedding_xhat_, tokens, hidden);
    take(embedding_rstd_, tokens, 1);
    take(embedding_y_, tokens, hidden);
    if (!training) {
      take(states[0], tokens, hidden);
      take(states[1], tokens, hidden);
    }
    bool any_temporary = false;
    for (std::size_t l = 0; l < activations_.size(); ++l) {
      LayerActivations& a = activations_[l];
      // Layers whose input is kept in projected form need gelu's result only until the product is done.
      const bool temporary = training && laid_out_kept_[2 * l + 1] > 0;
      if (temporary && !any_temporary) take(shared.a, tokens, wide);
      any_temporary = any_temporary || temporary;
      if (training || l == 0) {
        take(a.qkv, tokens, 3 * hidden);
        take(a.context, tokens, hidden);
        take(a.log_sums, tokens, config_.heads);
        take(a.xhat1, tokens, hidden);
        take(a.rstd1, tokens, 1);
        take(a.x1, tokens, hidden);
        take(a.slope, tokens, wide);
        if (temporary) {
          a.a = shared.a;
        } else {
          take(a.a, tokens, wide);
        }
        take(a.xhat2, tokens, hidden);
        take(a.rstd2, tokens, 1);
        take(a.lora_up, tokens, trained_.lora_rank);
        take(a.lora_down, tokens, trained_.lora_rank);
        if (training) {
          take(a.x, tokens, hidden);
          take(a.keep_up, tokens, laid_out_kept_[2 * l]);
          take(a.keep_down, tokens, laid_out_kept_[2 * l + 1]);
        }
      } else {
        a = activations_[0];
      }
      if (!training) a.x = states[l % 2];
    }
    take(first_, max_sequences_, hidden);
    take(pooled_, max_sequences_, hidden);
    take(dropped_, max_sequences_, hidden);
    take(logits_, max_sequences_, config_.num_labels);
    take(d_logits_, max_sequences_, config_.num_labels);
    take(attention_work_, Ops::template attention_work<T>(ctx, attention_, max_tokens_, max_length_), 1);
    if (training) {
      take(d_pooled_, max_sequences_, hidden);
      take(d_first_, max_sequences_, hidden);
      take(g_, tokens, hidden);
      take(g_product_, tokens, hidden);
      take(g_context_, tokens, hidden);
      take(g_qkv_, tokens, 3 * hidden);
      take(g_a_, tokens, wide);
      take(g_mlp_, tokens, hidden);
      take(g_lora_, tokens, trained_.lora_rank);
    }
    if (!placing && end != arena_.size()) {
      arena_.release();  // never two of them: resize keeps the old memory until it has the new
      arena_.resize(ctx, end);
    }
  }
}

template <class T, class Backend>
void EncoderModel<T, Backend>::require_room(Context& ctx, const Batch& batch, bool training) {
  const bool fits = batch.tokens() <= max_tokens_ && batch.sequences() <= max_sequences_ &&
                    batch.longest() <= max_length_ && (room_for_training_ || !training);
  if (!fits) {
    reserve(ctx, std::max(batch.tokens(), max_tokens_), std::max(batch.sequences(), max_sequences_),
            std::max(batch.longest(), max_length_), training || room_for_training_);
    return;
  }
  for (std::size_t i = 0; i < mlp_.size(); ++i) {
    if (mlp_[i].kept_cols() != laid_out_kept_[i]) return lay_out(ctx);
  }
}

template <class T, class Backend>
template <class F>
void EncoderModel<T, Backend>::timed(double ModelTimes::*kind, F&& f) {
  if (!measuring_) return f();
  const auto start = std::chrono::steady_clock::now();
  f();
  times_.*kind += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class T, class Backend>
Dropout<compute_t<T>> EncoderModel<T, Backend>::dropout(double probability, index_t layer, Site site) const {
  if (!training_ || probability <= 0) return {};
  return Dropout<C>(probability, dropout_stream(pass_key_, layer + 1, site));
}

template <class T, class Backend>
typename EncoderModel<T, Backend>::Result EncoderModel<T, Backend>::forward(Context& ctx, const Batch& batch,
                                                                            const ForwardOptions& options) {
  embeddings_.check(batch);
  require_room(ctx, batch, options.training);
  placed_.place(ctx, batch, options.training && embeddings_.trains_tables());
  tokens_ = batch.tokens();
  training_ = options.training;
  pass_key_ = mix_bits(options.dropout_key);
  backward_possible_ = false;
  const index_t hidden = config_.hidden;

  MatrixView<T> x = tokens_by(embedding_y_, hidden);
  timed(&ModelTimes::elementwise, [&] {
    Ops::template embeddings_forward<T>(ctx, embeddings_, placed_,
                                        dropout(config_.hidden_dropout, -1, embedding_site),
                                        tokens_by(embedding_xhat_, hidden), embedding_rstd_, x);
  });
  for (index_t l = 0; l < config_.layers; ++l) {
    forward_layer(ctx, l, x);
    x = tokens_by(activations_[static_cast<std::size_t>(l)].x, hidden);
  }

  const index_t sequences = batch.sequences();
  const MatrixView<T> first(first_, sequences, hidden);
  Ops::template take_first<T>(ctx, placed_, x, first);
  const MatrixView<T> pooled(pooled_, sequences, hidden);
  const MatrixView<C> logits(logits_, sequences, config_.num_labels);
  Ops::template apply_mask<T>(ctx, head_input_dropout(), first);
  timed(&ModelTimes::products, [&] {
    pooler_.forward(ctx, first, pooled);
    head_.forward(ctx, dropout(config_.classifier_dropout, -1, head_site), pooled,
                  MatrixView<T>(dropped_, sequences, hidden), logits);
  });
  Result result;
  if (sequences > 0) Backend::template download<C>(ctx, logits_, host_logits_.data(), logits.size());
  result.logits = MatrixView<const C>(host_logits_.data(), sequences, config_.num_labels);
  result.loss = loss_of<C>(config_.problem, result.logits, batch.labels,
                           MatrixView<C>(host_d_logits_.data(), sequences, config_.num_labels));
  backward_possible_ = training_;
  return result;
}

template <class T, class Backend>
void EncoderModel<T, Backend>::forward_layer(Context& ctx, index_t l, MatrixView<const T> x) {
  const LayerParameters& p = layers_[static_cast<std::size_t>(l)];
  LayerActivations& a = activations_[static_cast<std::size_t>(l)];
  const auto number = static_cast<std::size_t>(2 * l);
  const index_t hidden = config_.hidden;
  const MatrixView<T> qkv = tokens_by(a.qkv, 3 * hidden);
  const MatrixView<T> context = tokens_by(a.context, hidden);
  const MatrixView<T> xhat1 = tokens_by(a.xhat1, hidden);
  const MatrixView<T> x1 = tokens_by(a.x1, hidden);
  const MatrixView<T> h = tokens_by(a.slope, config_.intermediate);
  const MatrixView<T> gelu = tokens_by(a.a, config_.intermediate);
  const MatrixView<T> xhat2 = tokens_by(a.xhat2, hidden);

  timed(&ModelTimes::products, [&] { p.qkv.forward(ctx, x, qkv); });
  timed(&ModelTimes::attention, [&] {
    Ops::template attention_forward<T>(ctx, attention_, placed_, p.qkv_bias,
                                       dropout(config_.attention_dropout, l, attention_site), qkv, context,
                                       a.log_sums, attention_work_);
  });
  timed(&ModelTimes::products, [&] { p.attention_output.forward(ctx, context, xhat1); });
  timed(&ModelTimes::elementwise, [&] {
    Ops::template residual_norm_forward<T>(ctx, p.norm1,
                                           dropout(config_.hidden_dropout, l, attention_output_site),
                                           p.attention_output_bias, xhat1, x, a.rstd1, x1);
  });
  const auto keep = [&](T* memory, index_t cols) {
    return training_ && cols > 0 ? tokens_by(memory, cols) : MatrixView<T>();
  };
  timed(&ModelTimes::products, [&] {
    if (mlp_.empty()) {
      p.up.forward(ctx, x1, h);
      if (p.lora_up.on()) p.lora_up.forward(ctx, x1, tokens_by(a.lora_up, trained_.lora_rank), h);
    } else {
      a.saved_up = mlp_[number].forward(ctx, x1, h, keep(a.keep_up, laid_out_kept_[number]));
    }
  });
  timed(&ModelTimes::elementwise, [&] { Ops::template gelu_forward<T>(ctx, p.up_bias, h, gelu); });
  timed(&ModelTimes::products, [&] {
    if (mlp_.empty()) {
      p.down.forward(ctx, gelu, xhat2);
      if (p.lora_down.on()) p.lora_down.forward(ctx, gelu, tokens_by(a.lora_down, trained_.lora_rank), xhat2);
    } else {
      a.saved_down =
          mlp_[number + 1].forward(ctx, gelu, xhat2, keep(a.keep_down, laid_out_kept_[number + 1]));
    }
  });
  timed(&ModelTimes::elementwise, [&] {
    Ops::template residual_norm_forward<T>(ctx, p.norm2, dropout(config_.hidden_dropout, l, mlp_output_site),
                                           p.down_bias, xhat2, x1, a.rstd2, tokens_by(a.x, hidden));
  });
}

template <class T, class Backend>
void EncoderModel<T, Backend>::backward(Context& ctx, const Batch& batch, double loss_scale) {
  if (!backward_possible_ || batch.tokens() != tokens_) {
    throw StateError("backward: the last forward was not a training pass over this batch");
  }
  backward_possible_ = false;
  const index_t hidden = config_.hidden;
  const index_t sequences = batch.sequences();
  const MatrixView<C> d_logits(d_logits_, sequences, config_.num_labels);
  const MatrixView<T> d_pooled(d_pooled_, sequences, hidden);
  const MatrixView<T> d_first(d_first_, sequences, hidden);
  const MatrixView<T> g = tokens_by(g_, hidden);
  for (index_t i = 0; i < d_logits.size(); ++i)
    host_d_logits_[static_cast<std::size_t>(i)] *= static_cast<C>(loss_scale);
  if (sequences > 0) Backend::template upload<C>(ctx, host_d_logits_.data(), d_logits_, d_logits.size());
  timed(&ModelTimes::products, [&] {
    head_.backward(ctx, dropout(config_.classifier_dropout, -1, head_site),
                   MatrixView<T>(dropped_, sequences, hidden), d_logits, d_pooled);
    pooler_.backward(ctx, MatrixView<T>(first_, sequences, hidden), MatrixView<T>(pooled_, sequences, hidden),
                     d_pooled, d_first);
  });
  Ops::template apply_mask<T>(ctx, head_input_dropout(), d_first);
  Ops::template put_first<T>(ctx, placed_, d_first, g);
  for (index_t l = config_.layers - 1; l >= 0; --l) {
    T* input = l > 0 ? activations_[static_cast<std::size_t>(l - 1)].x : embedding_y_;
    backward_layer(ctx, l, tokens_by(input, hidden));
  }
  timed(&ModelTimes::elementwise, [&] {
    Ops::template embeddings_backward<T>(ctx, embeddings_, placed_,
                                         dropout(config_.hidden_dropout, -1, embedding_site),
                                         tokens_by(embedding_xhat_, hidden), embedding_rstd_, g);
  });
}

template <class T, class Backend>
void EncoderModel<T, Backend>::backward_layer(Context& ctx, index_t l, MatrixView<const T> x) {
  const LayerParameters& p = layers_[static_cast<std::size_t>(l)];
  const LayerActivations& a = activations_[static_cast<std::size_t>(l)];
  const auto number = static_cast<std::size_t>(2 * l);
  const index_t hidden = config_.hidden;
  const index_t wide = config_.intermediate;
  const MatrixView<T> g = tokens_by(g_, hidden);
  const MatrixView<T> g_product = tokens_by(g_product_, hidden);
  const MatrixView<T> g_mlp = tokens_by(g_mlp_, hidden);
  const MatrixView<T> g_a = tokens_by(g_a_, wide);
  const MatrixView<T> g_context = tokens_by(g_context_, hidden);
  const MatrixView<T> g_qkv = tokens_by(g_qkv_, 3 * hidden);

  const Dropout<C> drop2 = dropout(config_.hidden_dropout, l, mlp_output_site);
  timed(&ModelTimes::elementwise, [&] {
    Ops::template residual_norm_backward<T>(ctx, p.norm2, drop2, tokens_by(a.xhat2, hidden), a.rstd2, g,
                                            MatrixView<const T>(), g_product, p.d_down_bias);
  });
  const auto kept = [&](index_t width) {
    const auto k = static_cast<index_t>(std::ceil(trained_.meprop_share * static_cast<double>(width)));
    return std::clamp<index_t>(k, 1, width);
  };
  const bool meprop = trained_.meprop_share > 0 && !mlp_.empty();
  if (meprop) {
    // g itself goes on along the residual path.
    if (!drop2.on()) Backend::template copy<T>(ctx, g, g_product);
    keep_largest_of_rows<T, Backend>(ctx, kept(hidden), g_product);
  }
  const MatrixView<const T> dy2 = drop2.on() || meprop ? g_product : g;
  const MatrixView<T> g_lora = tokens_by(g_lora_, trained_.lora_rank);
  timed(&ModelTimes::products, [&] {
    if (mlp_.empty()) {
      p.down.backward(ctx, dy2, {}, C(0), g_a);
      if (p.lora_down.on())
        p.lora_down.backward(ctx, dy2, tokens_by(a.a, wide), tokens_by(a.lora_down, trained_.lora_rank),
                             g_lora, g_a);
    } else {
      mlp_[number + 1].backward(ctx, dy2, a.saved_down, g_a, nullptr);
      if (on_mlp_gradient_) on_mlp_gradient_(2 * l + 1);
    }
  });
  timed(&ModelTimes::elementwise,
        [&] { Ops::template gelu_backward<T>(ctx, tokens_by(a.slope, wide), g_a, p.d_up_bias); });
  if (meprop) keep_largest_of_rows<T, Backend>(ctx, kept(wide), g_a);
  timed(&ModelTimes::products, [&] {
    if (mlp_.empty()) {
      p.up.backward(ctx, g_a, {}, C(0), g_mlp);
      if (p.lora_up.on())
        p.lora_up.backward(ctx, g_a, tokens_by(a.x1, hidden), tokens_by(a.lora_up, trained_.lora_rank),
                           g_lora, g_mlp);
    } else {
      mlp_[number].backward(ctx, g_a, a.saved_up, g_mlp, nullptr);
      if (on_mlp_gradient_) on_mlp_gradient_(2 * l);
    }
  });

  const Dropout<C> drop1 = dropout(config_.hidden_dropout, l, attention_output_site);
  timed(&ModelTimes::elementwise, [&] {
    Ops::template residual_norm_backward<T>(ctx, p.norm1, drop1, tokens_by(a.xhat1, hidden), a.rstd1, g,
                                            g_mlp, g_product, p.d_attention_output_bias);
  });
  const MatrixView<const T> dy1 = drop1.on() ? g_product : g;
  timed(&ModelTimes::products,
        [&] { p.attention_output.backward(ctx, dy1, tokens_by(a.context, hidden), C(0), g_context); });
  timed(&ModelTimes::attention, [&] {
    Ops::template attention_backward<T>(ctx, attention_, placed_,
                                        dropout(config_.attention_dropout, l, attention_site),
                                        tokens_by(a.qkv, 3 * hidden), tokens_by(a.context, hidden),
                                        a.log_sums, g_context, g_qkv, attention_work_);
  });
  timed(&ModelTimes::elementwise, [&] { Ops::template column_sums<T>(ctx, g_qkv, p.d_qkv_bias); });
  timed(&ModelTimes::products, [&] { p.qkv.backward(ctx, g_qkv, x, C(1), g); });
}

template <class T, class Backend>
ModelMemory EncoderModel<T, Backend>::memory() const {
  ModelMemory memory;
  memory.weights = parameters_.weight_bytes();
  memory.dense_gradients = parameters_.gradient_bytes();
  for (const MlpLayer& layer : mlp_)
    memory.mlp_gradients += layer.gradient_bytes();
  memory.activations = arena_.bytes();
  return memory;
}

}  // namespace sparsegrad::glue
