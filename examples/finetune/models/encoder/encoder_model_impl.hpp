// Definitions of EncoderModel, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "models/encoder/encoder_model.hpp"
#include "models/initial_values.hpp"
#include "models/layers/step_profile.hpp"

namespace sparsegrad::finetune {

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
      parameters_(ctx, parameter_shapes(config_, trained_.mlp.lora_rank), trained_.dense),
      attention_{config_.heads, config_.head_size()} {
  if (trained_.mlp.lora_rank > 0 && trained_.mlp.matrices)
    throw ModelError("an adapter of rank " + std::to_string(trained_.mlp.lora_rank) +
                     " was asked for beside trained MLP matrices, expected constant ones");
  std::vector<std::string> names;
  for (index_t number = 0; number < 2 * config_.layers; ++number)
    names.push_back(mlp_name(number));
  mlp_ = make_mlp_matrices<T, Backend>(ctx, trained_.mlp, parameters_, names);
  bind();
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
    const auto joined = p.joined(name("attention.self.query.weight"), name("attention.self.query.bias"), 3);
    LayerParameters layer;
    layer.qkv = {joined.weight, joined.d_weight};
    layer.qkv_bias = joined.bias;
    layer.d_qkv_bias = joined.d_bias;
    layer.attention_output = detail::linear_of(p, name("attention.output.dense.weight"));
    layer.up = mlp_.matrices[static_cast<std::size_t>(2 * l)].get();
    layer.down = mlp_.matrices[static_cast<std::size_t>(2 * l + 1)].get();
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
  std::vector<C> values = finetune::initial_values(p, config_.initializer_range, trained_.mlp.lora_init, key);
  const bool padded =
      p.name.ends_with("word_embeddings.weight") ||
      (config_.family == ModelFamily::roberta && p.name.ends_with("position_embeddings.weight"));
  if (padded && config_.pad_token_id >= 0 && config_.pad_token_id < p.weight.rows)
    std::fill_n(values.data() + config_.pad_token_id * p.weight.cols, p.weight.cols, C(0));
  return values;
}

template <class T, class Backend>
std::optional<std::vector<compute_t<T>>> EncoderModel<T, Backend>::merged(
    const Parameter<T>& parameter) const {
  if (parameter.kind != ParameterKind::mlp_matrix) return std::nullopt;
  for (std::size_t number = 0; number < mlp_.matrices.size(); ++number) {
    if (parameter.name != mlp_name(static_cast<index_t>(number))) continue;
    std::vector<C> merged = values(parameter.weight);
    if (mlp_.matrices[number]->merge(ctx_, merged)) return merged;
  }
  return std::nullopt;
}

template <class T, class Backend>
void EncoderModel<T, Backend>::reserve(Context& ctx, index_t max_tokens, index_t max_sequences,
                                       index_t max_length, bool training) {
  max_tokens_ = std::max<index_t>(max_tokens, 1);
  max_sequences_ = std::max<index_t>(max_sequences, 1);
  max_length_ = std::max<index_t>(max_length, 1);
  room_for_training_ = training;
  lay_out(ctx);
  for (MlpLayer& layer : mlp_.layers)
    layer.reserve(ctx, max_tokens_);
  placed_.reserve(ctx, max_tokens_, max_sequences_);
  const auto outputs = static_cast<std::size_t>(max_sequences_ * config_.num_labels);
  host_logits_.resize(outputs);
  host_d_logits_.resize(outputs);
  index_t scratch =
      Ops::template scratch_bytes<T>(max_tokens_, std::max(3 * config_.hidden, config_.intermediate));
  // A host's products of 16 bits convert blocks there.
  if constexpr (is_low_precision<T> && !ThrustBackend<Backend>)
    scratch += Backend::template scratch_bound<C>(ctx, 0);
  ctx.scratch().reserve(scratch);
}

template <class T, class Backend>
void EncoderModel<T, Backend>::lay_out(Context& ctx) {
  const bool training = room_for_training_;
  const index_t hidden = config_.hidden;
  const index_t wide = config_.intermediate;
  laid_out_saved_ = mlp_.saved_cols();
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
      // Where backward does without gelu's result, it is needed only until the product is done.
      const bool temporary = training && !layers_[l].down->keeps_input();
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
        if (training) take(a.x, tokens, hidden);
        take(a.saved_up, tokens, layers_[l].up->saved_cols(training));
        take(a.saved_down, tokens, layers_[l].down->saved_cols(training));
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
      index_t work = 0;
      for (const auto& matrix : mlp_.matrices)
        work = std::max(work, matrix->work_cols());
      take(g_work_, tokens, work);
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
  for (std::size_t i = 0; i < mlp_.matrices.size(); ++i) {
    if (mlp_.matrices[i]->saved_cols(true) != laid_out_saved_[i]) return lay_out(ctx);
  }
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
  Ops::template embeddings_forward<T>(ctx, embeddings_, placed_,
                                      dropout(config_.hidden_dropout, -1, embedding_site),
                                      tokens_by(embedding_xhat_, hidden), embedding_rstd_, x);
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
  pooler_.forward(ctx, first, pooled);
  head_.forward(ctx, dropout(config_.classifier_dropout, -1, head_site), pooled,
                MatrixView<T>(dropped_, sequences, hidden), logits);
  Result result;
  if (sequences > 0) Backend::template download<C>(ctx, logits_, host_logits_.data(), logits.size());
  result.logits = MatrixView<const C>(host_logits_.data(), sequences, config_.num_labels);
  profiled_bytes(ctx, Work::head, bytes_of<C>(2 * logits.size()), [&] {
    result.loss = loss_of<C>(config_.problem, result.logits, batch.labels,
                             MatrixView<C>(host_d_logits_.data(), sequences, config_.num_labels));
  });
  backward_possible_ = training_;
  return result;
}

template <class T, class Backend>
void EncoderModel<T, Backend>::forward_layer(Context& ctx, index_t l, MatrixView<const T> x) {
  const LayerParameters& p = layers_[static_cast<std::size_t>(l)];
  LayerActivations& a = activations_[static_cast<std::size_t>(l)];
  const index_t hidden = config_.hidden;
  const MatrixView<T> qkv = tokens_by(a.qkv, 3 * hidden);
  const MatrixView<T> context = tokens_by(a.context, hidden);
  const MatrixView<T> xhat1 = tokens_by(a.xhat1, hidden);
  const MatrixView<T> x1 = tokens_by(a.x1, hidden);
  const MatrixView<T> h = tokens_by(a.slope, config_.intermediate);
  const MatrixView<T> gelu = tokens_by(a.a, config_.intermediate);
  const MatrixView<T> xhat2 = tokens_by(a.xhat2, hidden);

  p.qkv.forward(ctx, x, qkv);
  Ops::template attention_forward<T>(ctx, attention_, placed_, p.qkv_bias,
                                     dropout(config_.attention_dropout, l, attention_site), qkv, context,
                                     a.log_sums, attention_work_);
  p.attention_output.forward(ctx, context, xhat1);
  Ops::template residual_norm_forward<T>(ctx, p.norm1,
                                         dropout(config_.hidden_dropout, l, attention_output_site),
                                         p.attention_output_bias, xhat1, x, a.rstd1, x1);
  p.up->forward(ctx, x1, lent(a.saved_up, p.up->saved_cols(training_)), h);
  Ops::template gelu_forward<T>(ctx, p.up_bias, h, gelu);
  p.down->forward(ctx, gelu, lent(a.saved_down, p.down->saved_cols(training_)), xhat2);
  Ops::template residual_norm_forward<T>(ctx, p.norm2, dropout(config_.hidden_dropout, l, mlp_output_site),
                                         p.down_bias, xhat2, x1, a.rstd2, tokens_by(a.x, hidden));
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
  if (sequences > 0) send<Backend, C>(ctx, host_d_logits_.data(), d_logits_, d_logits.size());
  head_.backward(ctx, dropout(config_.classifier_dropout, -1, head_site),
                 MatrixView<T>(dropped_, sequences, hidden), d_logits, d_pooled);
  pooler_.backward(ctx, MatrixView<T>(first_, sequences, hidden), MatrixView<T>(pooled_, sequences, hidden),
                   d_pooled, d_first);
  Ops::template apply_mask<T>(ctx, head_input_dropout(), d_first);
  Ops::template put_first<T>(ctx, placed_, d_first, g);
  for (index_t l = config_.layers - 1; l >= 0; --l) {
    T* input = l > 0 ? activations_[static_cast<std::size_t>(l - 1)].x : embedding_y_;
    backward_layer(ctx, l, tokens_by(input, hidden));
    if (on_layer_gradients_) on_layer_gradients_(l);
  }
  Ops::template embeddings_backward<T>(ctx, embeddings_, placed_,
                                       dropout(config_.hidden_dropout, -1, embedding_site),
                                       tokens_by(embedding_xhat_, hidden), embedding_rstd_, g);
}

template <class T, class Backend>
void EncoderModel<T, Backend>::backward_layer(Context& ctx, index_t l, MatrixView<const T> x) {
  const LayerParameters& p = layers_[static_cast<std::size_t>(l)];
  const LayerActivations& a = activations_[static_cast<std::size_t>(l)];
  const index_t hidden = config_.hidden;
  const index_t wide = config_.intermediate;
  const MatrixView<T> g = tokens_by(g_, hidden);
  const MatrixView<T> g_product = tokens_by(g_product_, hidden);
  const MatrixView<T> g_mlp = tokens_by(g_mlp_, hidden);
  const MatrixView<T> g_a = tokens_by(g_a_, wide);
  const MatrixView<T> g_context = tokens_by(g_context_, hidden);
  const MatrixView<T> g_qkv = tokens_by(g_qkv_, 3 * hidden);

  const Dropout<C> drop2 = dropout(config_.hidden_dropout, l, mlp_output_site);
  Ops::template residual_norm_backward<T>(ctx, p.norm2, drop2, tokens_by(a.xhat2, hidden), a.rstd2, g,
                                          MatrixView<const T>(), g_product, p.d_down_bias);
  // g itself goes on along the residual path.
  const bool apart = drop2.on() || p.down->changes_dy();
  if (apart && !drop2.on()) Backend::template copy<T>(ctx, g, g_product);
  const auto gradient_done = [&](index_t number) {
    if (on_mlp_gradient_ && trains_mlp()) on_mlp_gradient_(number);
  };
  p.down->backward(ctx, apart ? g_product : g, tokens_by(a.a, wide),
                   lent(a.saved_down, p.down->saved_cols(true)), lent(g_work_, p.down->work_cols()), g_a,
                   InputGradient::overwrite);
  gradient_done(2 * l + 1);
  Ops::template gelu_backward<T>(ctx, tokens_by(a.slope, wide), g_a, p.d_up_bias);
  p.up->backward(ctx, g_a, tokens_by(a.x1, hidden), lent(a.saved_up, p.up->saved_cols(true)),
                 lent(g_work_, p.up->work_cols()), g_mlp, InputGradient::overwrite);
  gradient_done(2 * l);

  const Dropout<C> drop1 = dropout(config_.hidden_dropout, l, attention_output_site);
  Ops::template residual_norm_backward<T>(ctx, p.norm1, drop1, tokens_by(a.xhat1, hidden), a.rstd1, g, g_mlp,
                                          g_product, p.d_attention_output_bias);
  const MatrixView<const T> dy1 = drop1.on() ? g_product : g;
  p.attention_output.backward(ctx, dy1, tokens_by(a.context, hidden), C(0), g_context);
  Ops::template attention_backward<T>(ctx, attention_, placed_,
                                      dropout(config_.attention_dropout, l, attention_site),
                                      tokens_by(a.qkv, 3 * hidden), tokens_by(a.context, hidden), a.log_sums,
                                      g_context, g_qkv, attention_work_);
  Ops::template column_sums<T>(ctx, g_qkv, p.d_qkv_bias);
  p.qkv.backward(ctx, g_qkv, x, C(1), g);
}

template <class T, class Backend>
ModelMemory EncoderModel<T, Backend>::memory() const {
  ModelMemory memory;
  memory.weights = parameters_.weight_bytes();
  memory.dense_gradients = parameters_.gradient_bytes();
  for (const MlpLayer& layer : mlp_.layers)
    memory.mlp_gradients += layer.gradient_bytes();
  memory.activations = arena_.bytes();
  return memory;
}

}  // namespace sparsegrad::finetune
