// Definitions of DecoderModel but for its passes (decoder_passes_impl.hpp), for the files that instantiate it.
#pragma once

#include <algorithm>
#include <utility>

#include "models/decoder/decoder_model.hpp"
#include "models/initial_values.hpp"
#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

namespace detail {

inline const DecoderConfig& checked(const DecoderConfig& config) {
  config.check("model configuration");
  return config;
}

inline std::vector<ParameterShape> placed_shapes(const DecoderConfig& config, const TrainedParts& trained,
                                                 const PackedMatrices& packed) {
  std::vector<ParameterShape> shapes = decoder_shapes(config, trained.matrices, trained.mlp.lora_rank);
  keep_packed(shapes, trained, packed);
  return shapes;
}

template <class T, class Backend>
RmsNorm<compute_t<T>> rms_norm_of(ParameterSet<T, Backend>& parameters, const std::string& name, double eps) {
  const Parameter<T>& gamma = parameters.at(name);
  return {gamma.weight.data, gamma.gradient.data, static_cast<compute_t<T>>(eps)};
}

}  // namespace detail

template <class T, class Backend>
DecoderModel<T, Backend>::DecoderModel(Context& ctx, const DecoderConfig& config, TrainedParts trained,
                                       const PackedMatrices& packed)
    : ctx_(ctx),
      config_(detail::checked(config)),
      trained_(std::move(trained)),
      parameters_(ctx, detail::placed_shapes(config_, trained_, packed), trained_.dense),
      shape_{config_.heads, config_.kv_heads, config_.head_size},
      frequencies_(rope_frequencies(config_.rope, config_.head_size)) {
  if (trained_.mlp.lora_rank > 0 && trained_.mlp.matrices) {
    throw ModelError("an adapter of rank " + std::to_string(trained_.mlp.lora_rank) +
                     " was asked for beside trained matrices, expected constant ones");
  }
  for (const index_t block : trained_.matrices.blocks) {
    if (block < 0 || block >= config_.layers) {
      throw ModelError("block " + std::to_string(block) + " was chosen, the model has blocks 0 to " +
                       std::to_string(config_.layers - 1));
    }
  }
  std::vector<std::string> names;
  std::vector<bool> chosen;
  for (index_t l = 0; l < config_.layers; ++l) {
    for (const MatrixKind kind : all_matrix_kinds) {
      names.push_back(matrix_name(l, kind));
      chosen.push_back(trained_.matrices.contains(l, kind));
      const bool has_layer = chosen.back() && trained_.mlp.matrices;
      mlp_number_.push_back(has_layer ? static_cast<index_t>(mlp_names_.size()) : -1);
      if (has_layer) mlp_names_.push_back(names.back());
    }
  }
  mlp_ = make_mlp_matrices<T, Backend>(ctx, trained_.mlp, parameters_, names, chosen);
  bind();
  plan_backward();
  const std::vector<C> ones(static_cast<std::size_t>(config_.hidden), C(1));
  for (Parameter<T>& p : parameters_.all()) {
    if (p.name.ends_with("norm.weight")) set_values(p.weight, ones);
  }
}

template <class T, class Backend>
void DecoderModel<T, Backend>::bind() {
  auto& p = parameters_;
  const double eps = config_.rms_norm_eps;
  const Parameter<T>& table = p.at("model.embed_tokens.weight");
  table_ = table.weight;
  d_table_ = table.gradient;
  const Parameter<T>& head = config_.tied_embeddings ? table : p.at("lm_head.weight");
  if (table.packed != nullptr) packed_table_ = FrozenWeight<T, Backend>(table);
  head_ = FrozenWeight<T, Backend>(head);
  d_head_ = head.gradient;
  last_norm_ = detail::rms_norm_of(p, "model.norm.weight", eps);
  for (index_t l = 0; l < config_.layers; ++l) {
    Block block{};
    block.o = &matrix(l, MatrixKind::o);
    block.down = &matrix(l, MatrixKind::down);
    if (config_.qkv_bias) {  // q's, with k's and v's joined to it
      const Parameter<T>& bias = p.at(block_parameter(l, "self_attn.q_proj.bias"));
      block.qkv_bias = bias.weight.data;
      block.d_qkv_bias = bias.gradient.data;
    }
    if (config_.o_bias) {
      const Parameter<T>& bias = p.at(block_parameter(l, "self_attn.o_proj.bias"));
      block.o_bias = bias.weight.data;
      block.d_o_bias = bias.gradient.data;
    }
    block.norm1 = detail::rms_norm_of(p, block_parameter(l, "input_layernorm.weight"), eps);
    block.norm2 = detail::rms_norm_of(p, block_parameter(l, "post_attention_layernorm.weight"), eps);
    blocks_.push_back(block);
  }
}

template <class T, class Backend>
void DecoderModel<T, Backend>::plan_backward() {
  const bool any_way = trained_.mlp.matrices || trained_.mlp.lora_rank > 0;
  bool below = !d_table_.empty();
  for (index_t l = 0; l < config_.layers; ++l) {
    Block& b = blocks_[static_cast<std::size_t>(l)];
    const auto trains = [&](MatrixKind kind) { return any_way && trained_.matrices.contains(l, kind); };
    Wanted& w = b.wanted;
    w.input = below;
    w.norm1 = w.input || b.norm1.d_gamma != nullptr;
    w.qkv = w.norm1 || trains(MatrixKind::q) || trains(MatrixKind::k) || trains(MatrixKind::v) ||
            b.d_qkv_bias != nullptr;
    w.attention = w.qkv || trains(MatrixKind::o) || b.d_o_bias != nullptr;
    w.norm2 = w.attention || b.norm2.d_gamma != nullptr;
    w.wide = w.norm2 || trains(MatrixKind::gate) || trains(MatrixKind::up);
    w.block = w.wide || trains(MatrixKind::down);
    below = w.block;
  }
  wanted_.block = below;
  wanted_.norm1 = below || last_norm_.d_gamma != nullptr;
}

template <class T, class Backend>
void DecoderModel<T, Backend>::initialize(std::uint64_t seed) {
  initialize(seed, [](std::string_view) { return true; });
}

template <class T, class Backend>
void DecoderModel<T, Backend>::initialize(std::uint64_t seed, const ParameterRule& which) {
  std::uint64_t number = 0;
  for (const Parameter<T>& p : parameters_.all()) {
    const std::uint64_t key = stream_key(seed, ++number);
    if (which(p.name) && p.packed == nullptr) set_values(p.weight, initial_values(p, key));
  }
}

template <class T, class Backend>
std::vector<compute_t<T>> DecoderModel<T, Backend>::initial_values(const Parameter<T>& p,
                                                                   std::uint64_t key) const {
  std::vector<C> values = finetune::initial_values(p, config_.initializer_range, trained_.mlp.lora_init, key);
  const index_t pad = config_.pad_token_id;
  if (p.name.ends_with("embed_tokens.weight") && pad >= 0 && pad < p.weight.rows)
    std::fill_n(values.data() + pad * p.weight.cols, p.weight.cols, C(0));
  return values;
}

template <class T, class Backend>
std::vector<compute_t<T>> DecoderModel<T, Backend>::values_of(const Parameter<T>& p) const {
  if (p.packed == nullptr) return values(p.weight);
  p.packed->require_whole();
  std::vector<C> values(static_cast<std::size_t>(p.size()));
  std::vector<float> row(static_cast<std::size_t>(p.cols()));
  for (index_t i = 0; i < p.rows(); ++i) {
    p.packed->read(i, 0, p.cols(), row.data());
    std::copy(row.begin(), row.end(), values.begin() + i * p.cols());
  }
  return values;
}

template <class T, class Backend>
std::optional<std::vector<compute_t<T>>> DecoderModel<T, Backend>::merged(
    const Parameter<T>& parameter) const {
  if (parameter.kind != ParameterKind::mlp_matrix) return std::nullopt;
  for (index_t l = 0; l < config_.layers; ++l) {
    for (const MatrixKind kind : all_matrix_kinds) {
      if (parameter.name != matrix_name(l, kind)) continue;
      std::vector<C> merged = values_of(parameter);
      if (matrix(l, kind).merge(ctx_, merged)) return merged;
      return std::nullopt;
    }
  }
  return std::nullopt;
}

template <class T, class Backend>
void DecoderModel<T, Backend>::reserve(Context& ctx, index_t max_tokens, index_t max_sequences,
                                       index_t max_length, bool training) {
  max_tokens_ = std::max<index_t>(max_tokens, 1);
  max_sequences_ = std::max<index_t>(max_sequences, 1);
  max_length_ = std::max<index_t>(max_length, 1);
  room_for_training_ = training;
  lay_out(ctx);
  for (MlpLayer& layer : mlp_.layers)
    layer.reserve(ctx, max_tokens_);
  placed_.reserve(ctx, max_tokens_, max_sequences_);
  require_positions(ctx, std::min(max_length_, config_.max_positions));
  const auto tokens = static_cast<std::size_t>(max_tokens_);
  rows_.reserve(tokens);
  targets_.reserve(tokens);
  token_losses_.reserve(tokens);
  index_t scratch = Ops::template scratch_bytes<T>(
      max_tokens_, std::max({shape_.cols(), config_.intermediate, config_.hidden}));
  index_t unpacked = 0;
  // A host's products of 16 bits convert blocks there.
  if constexpr (is_low_precision<T> && !ThrustBackend<Backend>)
    scratch += Backend::template scratch_bound<C>(ctx, 0);
  for (const Parameter<T>& p : parameters_.all()) {
    if constexpr (!ThrustBackend<Backend>) {
      if (p.packed != nullptr)
        unpacked = std::max(unpacked, FrozenWeight<T, Backend>::scratch_bytes(*p.packed, ctx.threads()));
    }
  }
  for (std::size_t i = 0; i < mlp_.updates.size(); ++i) {
    if constexpr (!ThrustBackend<Backend>) {
      if (const auto* update = mlp_.updates[i].get(); update != nullptr) {
        const index_t whole =
            FrozenWeight<T, Backend>::updated_scratch_bytes(update->rows(), update->cols(), ctx.threads());
        unpacked = std::max(unpacked, whole + update->scratch_bytes(ctx, *mlp_.layers[i].basis()));
      }
    }
  }
  ctx.scratch().reserve(scratch + unpacked);
}

template <class T, class Backend>
void DecoderModel<T, Backend>::require_positions(Context& ctx, index_t positions) {
  if (positions <= rope_.cosines.rows) return;
  const index_t rows = std::min(std::max(positions, 2 * rope_.cosines.rows), config_.max_positions);
  std::vector<C> cosines;
  std::vector<C> sines;
  fill_rope_table<C>(frequencies_, rows, cosines, sines);
  const index_t half = config_.head_size / 2;
  angles_.resize(ctx, 2 * rows * half);
  Backend::template upload<C>(ctx, cosines.data(), angles_.data(), rows * half);
  Backend::template upload<C>(ctx, sines.data(), angles_.data() + rows * half, rows * half);
  rope_ = {MatrixView<const C>(angles_.data(), rows, half),
           MatrixView<const C>(angles_.data() + rows * half, rows, half)};
}

template <class T, class Backend>
void DecoderModel<T, Backend>::lay_out(Context& ctx) {
  const bool training = room_for_training_;
  const index_t hidden = config_.hidden;
  const index_t wide = config_.intermediate;
  const index_t tokens = max_tokens_;
  laid_out_saved_ = mlp_.saved_cols();
  activations_.assign(blocks_.size(), {});
  backward_possible_ = false;
  const Wanted& most = blocks_.back().wanted;

  // First pass: sizes; second pass: addresses.
  for (const bool placing : {false, true}) {
    index_t end = 0;
    const auto take = [&]<class V>(V*& piece, index_t rows, index_t cols) {
      constexpr index_t step = 64 / static_cast<index_t>(sizeof(V));
      if (placing) piece = reinterpret_cast<V*>(arena_.data() + end);
      end += (rows * cols + step - 1) / step * (64 / static_cast<index_t>(sizeof(C)));
    };
    BlockActivations shared{};
    std::vector<const void*> taken;
    // A piece of the block's own, or the one that blocks share, which the first of them takes.
    const auto give = [&]<class V>(bool own, V*& piece, V*& common, index_t rows, index_t cols) {
      if (own) return take(piece, rows, cols);
      if (std::find(taken.begin(), taken.end(), &common) == taken.end()) {
        take(common, rows, cols);
        taken.push_back(&common);
      }
      piece = common;
    };
    give(false, tail_, shared.x, tokens, hidden);
    T* lent_in_evaluation = nullptr;
    index_t most_saved = 0;
    for (const auto& matrix : mlp_.matrices)
      most_saved = std::max(most_saved, matrix->saved_cols(false));
    if (!training) take(lent_in_evaluation, tokens, most_saved);
    for (std::size_t l = 0; l < activations_.size(); ++l) {
      BlockActivations& a = activations_[l];
      const Wanted wanted = training ? blocks_[l].wanted : Wanted{};
      const Wanted keeps = recomputes_ ? Wanted{} : wanted;
      give(keeps.qkv || (recomputes_ && wanted.block), a.x, shared.x, tokens, hidden);
      give(keeps.qkv, a.rstd1, shared.rstd1, tokens, 1);
      give(keeps.qkv, a.qkv, shared.qkv, tokens, shape_.cols());
      give(keeps.qkv, a.log_sums, shared.log_sums, tokens, config_.heads);
      give(keeps.attention, a.context, shared.context, tokens, shape_.q_cols());
      give(keeps.wide, a.x1, shared.x1, tokens, hidden);
      give(keeps.wide, a.rstd2, shared.rstd2, tokens, 1);
      give(keeps.block, a.gate, shared.gate, tokens, wide);
      give(keeps.block, a.up, shared.up, tokens, wide);
      for (const MatrixKind kind : all_matrix_kinds) {
        const auto number = static_cast<std::size_t>(kind);
        if (training) {
          index_t cols = matrix(static_cast<index_t>(l), kind).saved_cols(true);
          for (index_t other = 0; recomputes_ && other < config_.layers; ++other)
            cols = std::max(cols, matrix(other, kind).saved_cols(true));
          give(!recomputes_, a.saved[number], shared.saved[number], tokens, cols);
        } else {
          a.saved[number] = lent_in_evaluation;
        }
      }
    }
    take(last_x_, tokens, hidden);
    take(last_rstd_, tokens, 1);
    take(losses_, tokens, 1);
    take(last_, tokens, hidden);
    if (training) {
      take(d_last_, tokens, hidden);
      take(g_, tokens, hidden);
    }
    // A chunk of logits lies where blocks work: there are no logits while a block computes.
    const index_t shared_from = end;
    take(logits_, logit_rows(), config_.vocab_size);
    if (training && is_low_precision<T>) take(d_logits_, logit_rows(), config_.vocab_size);
    const index_t logits_end = std::exchange(end, shared_from);
    take(normed_, tokens, hidden);
    take(swiglu_, tokens, wide);
    take(attention_work_, Ops::template attention_work<T>(ctx, shape_, tokens, max_length_), 1);
    if (training) {
      take(g_norm_, tokens, hidden);
      if (most.wide) take(g_wide_, tokens, wide);
      if (most.attention) take(g_context_, tokens, shape_.q_cols());
      if (most.qkv) take(g_qkv_, tokens, shape_.cols());
      bool copies = false;
      index_t work = 0;
      for (const auto& matrix : mlp_.matrices) {
        copies = copies || matrix->changes_dy();
        work = std::max(work, matrix->work_cols());
      }
      if (copies) take(g_copy_, tokens, hidden);
      take(g_work_, tokens, work);
    }
    end = std::max(end, logits_end);
    if (!placing && end != arena_.size()) {
      arena_.release();  // never two of them: resize keeps the old memory until it has the new
      arena_.resize(ctx, end);
    }
  }
}

template <class T, class Backend>
void DecoderModel<T, Backend>::require_room(Context& ctx, const Batch& batch, index_t longest,
                                            bool training) {
  const bool fits = batch.tokens() <= max_tokens_ && batch.sequences() <= max_sequences_ &&
                    longest <= max_length_ && (room_for_training_ || !training);
  if (!fits) {
    reserve(ctx, std::max(batch.tokens(), max_tokens_), std::max(batch.sequences(), max_sequences_),
            std::max(longest, max_length_), training || room_for_training_);
    return;
  }
  for (std::size_t i = 0; i < mlp_.matrices.size(); ++i) {
    if (mlp_.matrices[i]->saved_cols(true) != laid_out_saved_[i]) return lay_out(ctx);
  }
}

template <class T, class Backend>
ModelMemory DecoderModel<T, Backend>::memory() const {
  ModelMemory memory;
  memory.weights = parameters_.weight_bytes();
  memory.dense_gradients = parameters_.gradient_bytes();
  for (const MlpLayer& layer : mlp_.layers)
    memory.mlp_gradients += layer.gradient_bytes();
  for (const auto& update : mlp_.updates)
    memory.weights += update == nullptr ? 0 : update->bytes();
  memory.activations = arena_.bytes();
  return memory;
}

}  // namespace sparsegrad::finetune
