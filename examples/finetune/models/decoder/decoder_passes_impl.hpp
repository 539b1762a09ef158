// The passes of DecoderModel, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <utility>

#include "models/decoder/decoder_model.hpp"
#include "models/layers/step_profile.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
void DecoderModel<T, Backend>::check(const Batch& batch, bool with_targets) const {
  const auto fail = [](const std::string& text) { throw ModelError("batch: " + text); };
  const auto inside = [&](const char* what, const std::vector<std::int32_t>& numbers, index_t begin,
                          index_t end) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] < begin || numbers[i] >= end) {
        fail(std::string(what) + " " + std::to_string(numbers[i]) + " of token " + std::to_string(i) +
             " is not below " + std::to_string(end));
      }
    }
  };
  inside("id", batch.ids, 0, config_.vocab_size);
  inside("position", batch.position_ids, 0, config_.max_positions);
  for (std::size_t s = 0; s < batch.lengths.size(); ++s) {
    if (batch.offsets[s + 1] - batch.offsets[s] != batch.lengths[s])
      fail("sequence " + std::to_string(s) + " is padded, expected sequences without padding");
  }
  if (!with_targets) return;
  if (batch.targets.size() != batch.ids.size()) {
    fail(std::to_string(batch.targets.size()) + " targets for " + std::to_string(batch.ids.size()) +
         " tokens");
  }
  inside("target", batch.targets, -1, config_.vocab_size);
}

template <class T, class Backend>
template <class Attend>
void DecoderModel<T, Backend>::forward_blocks(Context& ctx, Attend&& attend) {
  const index_t hidden = config_.hidden;
  const MatrixView<T> x = tokens_by(activations_[0].x, hidden);
  bool unpacked = false;
  if constexpr (!ThrustBackend<Backend>) {
    unpacked = packed_table_.is_packed();
    if (unpacked) packed_table_.take_rows(ctx, placed_.batch().ids, x);
  }
  if (!unpacked) Ops::template embed_forward<T>(ctx, table_, placed_, x);
  MatrixView<const T> residual;
  for (index_t l = 0; l < config_.layers; ++l) {
    forward_block(ctx, l, residual, attend);
    forward_down(ctx, l);
    residual = tokens_by(activations_[static_cast<std::size_t>(l)].x1, hidden);
  }
  Ops::template take_rows<T>(ctx, placed_, tokens_by(tail_, hidden), residual, rows_by(last_x_));
  Ops::template add_rms_norm_forward<T>(ctx, last_norm_, nullptr, MatrixView<const T>(), rows_by(last_x_),
                                        last_rstd_, rows_by(last_));
}

template <class T, class Backend>
template <class Attend>
void DecoderModel<T, Backend>::forward_block(Context& ctx, index_t l, MatrixView<const T> residual,
                                             Attend&& attend) {
  const Block& b = blocks_[static_cast<std::size_t>(l)];
  BlockActivations& a = activations_[static_cast<std::size_t>(l)];
  const index_t hidden = config_.hidden;
  const MatrixView<T> x = tokens_by(a.x, hidden);
  const MatrixView<T> x1 = tokens_by(a.x1, hidden);
  const MatrixView<T> normed = tokens_by(normed_, hidden);
  const MatrixView<T> qkv = tokens_by(a.qkv, shape_.cols());
  const MatrixView<T> context = tokens_by(a.context, shape_.q_cols());
  const MatrixView<T> gate = tokens_by(a.gate, config_.intermediate);
  const MatrixView<T> up = tokens_by(a.up, config_.intermediate);
  const auto product = [&](MatrixKind kind, MatrixView<const T> in, MatrixView<T> out) {
    forward_matrix(ctx, l, kind, in, out);
  };

  Ops::template add_rms_norm_forward<T>(ctx, b.norm1, nullptr, residual, x, a.rstd1, normed);
  const index_t q_cols = shape_.q_cols();
  const index_t kv_cols = shape_.kv_cols();
  product(MatrixKind::q, normed, qkv.block(0, 0, tokens_, q_cols));
  product(MatrixKind::k, normed, qkv.block(0, q_cols, tokens_, kv_cols));
  product(MatrixKind::v, normed, qkv.block(0, q_cols + kv_cols, tokens_, kv_cols));
  Ops::template rope_forward<T>(ctx, shape_, rope_, placed_, b.qkv_bias, qkv);
  attend(l, qkv, context);
  product(MatrixKind::o, context, x1);
  Ops::template add_rms_norm_forward<T>(ctx, b.norm2, b.o_bias, x, x1, a.rstd2, normed);
  product(MatrixKind::gate, normed, gate);
  product(MatrixKind::up, normed, up);
}

template <class T, class Backend>
void DecoderModel<T, Backend>::forward_down(Context& ctx, index_t l) {
  const BlockActivations& a = activations_[static_cast<std::size_t>(l)];
  const MatrixView<T> swiglu = tokens_by(swiglu_, config_.intermediate);
  Ops::template swiglu_forward<T>(ctx, tokens_by(a.gate, config_.intermediate),
                                  tokens_by(a.up, config_.intermediate), swiglu);
  const bool is_last = l + 1 == config_.layers;
  T* next = is_last ? tail_ : activations_[static_cast<std::size_t>(l + 1)].x;
  forward_matrix(ctx, l, MatrixKind::down, swiglu, tokens_by(next, config_.hidden));
}

template <class T, class Backend>
void DecoderModel<T, Backend>::forward_matrix(Context& ctx, index_t l, MatrixKind kind, MatrixView<const T> x,
                                              MatrixView<T> y) {
  Matrix& m = matrix(l, kind);
  const BlockActivations& a = activations_[static_cast<std::size_t>(l)];
  m.forward(ctx, x, lent(a.saved[static_cast<std::size_t>(kind)], m.saved_cols(training_)), y);
}

template <class T, class Backend>
void DecoderModel<T, Backend>::attend(Context& ctx, index_t l, MatrixView<const T> qkv,
                                      MatrixView<T> context) {
  Ops::template attention_forward<T>(ctx, shape_, placed_, qkv, context,
                                     activations_[static_cast<std::size_t>(l)].log_sums, attention_work_);
}

template <class T, class Backend>
template <class F>
void DecoderModel<T, Backend>::for_logits(Context& ctx, F&& f) {
  const HeadScope scope(ctx);
  const auto count = static_cast<index_t>(rows_.size());
  for (index_t first = 0; first < count; first += logit_rows()) {
    const index_t rows = std::min(logit_rows(), count - first);
    const MatrixView<C> logits(logits_, rows, config_.vocab_size);
    const MatrixView<const T> last = rows_by(last_).block(first, 0, rows, config_.hidden);
    head_.forward_wide(ctx, last, logits);
    f(first, logits);
  }
}

template <class T, class Backend>
MatrixView<T> DecoderModel<T, Backend>::loss_of(Context& ctx, index_t first, MatrixView<C> logits,
                                                bool with_gradient) {
  MatrixView<T> d_logits;
  if (with_gradient) {
    if constexpr (is_low_precision<T>) {
      d_logits = MatrixView<T>(d_logits_, logits.rows, logits.cols);
    } else {
      d_logits = logits;
    }
  }
  Ops::template cross_entropy<T>(ctx, placed_, first, logits, losses_ + first, d_logits);
  return d_logits;
}

template <class T, class Backend>
void DecoderModel<T, Backend>::take_targets(const Batch& batch) {
  rows_.clear();
  targets_.clear();
  for (std::size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] < 0) continue;
    rows_.push_back(static_cast<std::int32_t>(i));
    targets_.push_back(batch.targets[i]);
  }
  token_losses_.resize(rows_.size());
}

template <class T, class Backend>
typename DecoderModel<T, Backend>::Result DecoderModel<T, Backend>::forward(Context& ctx, const Batch& batch,
                                                                            const ForwardOptions& options) {
  check(batch, true);
  require_room(ctx, batch, batch.longest(), options.training);
  tokens_ = batch.tokens();
  training_ = options.training;
  backward_possible_ = false;
  take_targets(batch);
  placed_.place(ctx, batch, options.training && !d_table_.empty(), {rows_, targets_});
  forward_blocks(
      ctx, [&](index_t l, MatrixView<const T> qkv, MatrixView<T> context) { attend(ctx, l, qkv, context); });
  // The logits are there now and never again: their gradient goes on to the last states at once.
  const bool goes_on = training_ && wanted_.norm1;
  for_logits(ctx, [&](index_t first, MatrixView<C> logits) {
    const MatrixView<const T> d_logits = loss_of(ctx, first, logits, goes_on);
    if (!goes_on) return;
    const MatrixView<T> d_last = rows_by(d_last_).block(first, 0, logits.rows, config_.hidden);
    head_.backward(ctx, d_logits, C(0), d_last);
  });
  Result result;
  result.counted = static_cast<index_t>(rows_.size());
  if (result.counted > 0)
    Backend::template download<double>(ctx, losses_, token_losses_.data(), result.counted);
  result.token_losses = token_losses_;
  for (const double loss : token_losses_)
    result.loss += loss;
  if (result.counted > 0) result.loss /= static_cast<double>(result.counted);
  backward_possible_ = training_;
  return result;
}

template <class T, class Backend>
void DecoderModel<T, Backend>::backward(Context& ctx, const Batch& batch, double loss_scale) {
  if (!backward_possible_ || batch.tokens() != tokens_)
    throw StateError("backward: the last forward was not a training pass over this batch");
  backward_possible_ = false;
  const auto factor =
      static_cast<C>(loss_scale / static_cast<double>(std::max<std::size_t>(rows_.size(), 1)));
  if (!d_head_.empty()) {
    for_logits(ctx, [&](index_t first, MatrixView<C> logits) {
      const MatrixView<const T> d_logits = loss_of(ctx, first, logits, true);
      wide_product<T, Backend>(ctx, Op::transpose, Op::none, factor, d_logits,
                               rows_by(last_).block(first, 0, logits.rows, config_.hidden), C(1), d_head_);
    });
  }
  if (!wanted_.norm1) return;
  const MatrixView<T> g = tokens_by(g_, config_.hidden);
  // In place of the last states, which nobody reads again.
  Ops::template rms_norm_backward<T>(ctx, last_norm_, rows_by(last_x_), last_rstd_, rows_by(d_last_), factor,
                                     true, rows_by(last_));
  Ops::template put_rows<T>(ctx, placed_, rows_by(last_), g);
  for (index_t l = config_.layers - 1; l >= 0 && blocks_[static_cast<std::size_t>(l)].wanted.block; --l) {
    // What the last block computed is still there.
    if (recomputes_ && l + 1 < config_.layers) forward_again(ctx, l);
    backward_block(ctx, l);
    if (on_layer_gradients_) on_layer_gradients_(l);
  }
  if (d_table_.empty()) return;
  Ops::template embed_backward<T>(ctx, placed_, g, d_table_);
}

template <class T, class Backend>
void DecoderModel<T, Backend>::forward_again(Context& ctx, index_t l) {
  // Its input has the residual already.
  forward_block(ctx, l, MatrixView<const T>(),
                [&](index_t block, MatrixView<const T> qkv, MatrixView<T> context) {
                  attend(ctx, block, qkv, context);
                });
  // The block's result is wanted by nobody, what its last matrix saves is.
  if (matrix(l, MatrixKind::down).saved_cols(true) > 0) forward_down(ctx, l);
}

template <class T, class Backend>
void DecoderModel<T, Backend>::backward_matrix(Context& ctx, index_t l, MatrixKind kind, MatrixView<T> dy,
                                               MatrixView<const T> x, MatrixView<T> dx, InputGradient mode) {
  Matrix& m = matrix(l, kind);
  const BlockActivations& a = activations_[static_cast<std::size_t>(l)];
  m.backward(ctx, dy, x, lent(a.saved[static_cast<std::size_t>(kind)], m.saved_cols(true)),
             lent(g_work_, m.work_cols()), dx, mode);
  const index_t number =
      mlp_number_[all_matrix_kinds.size() * static_cast<std::size_t>(l) + static_cast<std::size_t>(kind)];
  if (number >= 0 && on_mlp_gradient_) on_mlp_gradient_(number);
}

template <class T, class Backend>
bool DecoderModel<T, Backend>::needs_input(index_t l, std::initializer_list<MatrixKind> kinds) const {
  if (!trained_.mlp.matrices && trained_.mlp.lora_rank == 0) return false;
  return std::any_of(kinds.begin(), kinds.end(), [&](MatrixKind kind) {
    return trained_.matrices.contains(l, kind) && matrix(l, kind).keeps_input();
  });
}

template <class T, class Backend>
void DecoderModel<T, Backend>::backward_block(Context& ctx, index_t l) {
  const Block& b = blocks_[static_cast<std::size_t>(l)];
  const BlockActivations& a = activations_[static_cast<std::size_t>(l)];
  const index_t hidden = config_.hidden;
  const MatrixView<T> g = tokens_by(g_, hidden);
  const MatrixView<T> gate = tokens_by(a.gate, config_.intermediate);
  const MatrixView<T> up = tokens_by(a.up, config_.intermediate);
  const MatrixView<T> swiglu = tokens_by(swiglu_, config_.intermediate);
  const MatrixView<T> g_wide = b.wanted.wide ? tokens_by(g_wide_, config_.intermediate) : MatrixView<T>();

  if (needs_input(l, {MatrixKind::down})) Ops::template swiglu_forward<T>(ctx, gate, up, swiglu);
  backward_matrix(ctx, l, MatrixKind::down, kept_apart(ctx, *b.down, g), swiglu, g_wide);
  if (!b.wanted.wide) return;
  Ops::template swiglu_backward<T>(ctx, g_wide, gate, up);
  const MatrixView<T> normed = tokens_by(normed_, hidden);
  const MatrixView<T> x1 = tokens_by(a.x1, hidden);
  if (needs_input(l, {MatrixKind::gate, MatrixKind::up}))
    Ops::template rms_norm_again<T>(ctx, b.norm2, x1, a.rstd2, normed);
  const MatrixView<T> g_norm = b.wanted.norm2 ? tokens_by(g_norm_, hidden) : MatrixView<T>();
  backward_matrix(ctx, l, MatrixKind::up, up, normed, g_norm);
  backward_matrix(ctx, l, MatrixKind::gate, gate, normed, g_norm, InputGradient::add);
  if (!b.wanted.norm2) return;
  Ops::template rms_norm_backward<T>(ctx, b.norm2, x1, a.rstd2, g_norm, C(1), false, g);
  if (b.wanted.attention) backward_attention(ctx, l);
}

template <class T, class Backend>
void DecoderModel<T, Backend>::backward_attention(Context& ctx, index_t l) {
  const Block& b = blocks_[static_cast<std::size_t>(l)];
  const BlockActivations& a = activations_[static_cast<std::size_t>(l)];
  const index_t hidden = config_.hidden;
  const index_t q_cols = shape_.q_cols();
  const index_t kv_cols = shape_.kv_cols();
  const MatrixView<T> g = tokens_by(g_, hidden);
  const MatrixView<T> context = tokens_by(a.context, q_cols);
  const MatrixView<T> g_context = b.wanted.qkv ? tokens_by(g_context_, q_cols) : MatrixView<T>();
  Ops::template column_sums<T>(ctx, g, b.d_o_bias);
  backward_matrix(ctx, l, MatrixKind::o, kept_apart(ctx, *b.o, g), context, g_context);
  if (!b.wanted.qkv) return;
  const MatrixView<T> g_qkv = tokens_by(g_qkv_, shape_.cols());
  Ops::template attention_backward<T>(ctx, shape_, placed_, tokens_by(a.qkv, shape_.cols()), context,
                                      a.log_sums, g_context, g_qkv, attention_work_);
  Ops::template rope_backward<T>(ctx, shape_, rope_, placed_, g_qkv);
  const MatrixView<T> normed = tokens_by(normed_, hidden);
  const MatrixView<T> x = tokens_by(a.x, hidden);
  Ops::template column_sums<T>(ctx, g_qkv, b.d_qkv_bias);
  if (needs_input(l, {MatrixKind::q, MatrixKind::k, MatrixKind::v}))
    Ops::template rms_norm_again<T>(ctx, b.norm1, x, a.rstd1, normed);
  const MatrixView<T> g_norm = b.wanted.norm1 ? tokens_by(g_norm_, hidden) : MatrixView<T>();
  backward_matrix(ctx, l, MatrixKind::q, g_qkv.block(0, 0, tokens_, q_cols), normed, g_norm);
  backward_matrix(ctx, l, MatrixKind::k, g_qkv.block(0, q_cols, tokens_, kv_cols), normed, g_norm,
                  InputGradient::add);
  backward_matrix(ctx, l, MatrixKind::v, g_qkv.block(0, q_cols + kv_cols, tokens_, kv_cols), normed, g_norm,
                  InputGradient::add);
  if (!b.wanted.norm1) return;
  Ops::template rms_norm_backward<T>(ctx, b.norm1, x, a.rstd1, g_norm, C(1), false, g);
}

template <class T, class Backend>
MatrixView<T> DecoderModel<T, Backend>::kept_apart(Context& ctx, const Matrix& m, MatrixView<T> g) {
  if (!m.changes_dy()) return g;
  const MatrixView<T> copy = tokens_by(g_copy_, g.cols);
  Backend::template copy<T>(ctx, g, copy);
  return copy;
}

template <class T, class Backend>
std::vector<compute_t<T>> DecoderModel<T, Backend>::logits(Context& ctx, const Batch& batch) {
  check(batch, false);
  require_room(ctx, batch, batch.longest(), false);
  tokens_ = batch.tokens();
  training_ = backward_possible_ = false;
  rows_.clear();
  for (index_t i = 0; i < tokens_; ++i)
    rows_.push_back(static_cast<std::int32_t>(i));
  placed_.place(ctx, batch, false, {rows_, {}});
  forward_blocks(
      ctx, [&](index_t l, MatrixView<const T> qkv, MatrixView<T> context) { attend(ctx, l, qkv, context); });
  std::vector<C> all(static_cast<std::size_t>(tokens_ * config_.vocab_size));
  for_logits(ctx, [&](index_t first, MatrixView<C> logits) {
    Backend::template download<C>(ctx, logits.data, all.data() + first * config_.vocab_size, logits.size());
  });
  return all;
}

template <class T, class Backend>
std::span<const compute_t<T>> DecoderModel<T, Backend>::decode(Context& ctx, Cache& cache,
                                                               std::span<const std::int32_t> ids) {
  if (ids.empty()) throw ModelError("decode: no tokens were given");
  one_.clear();
  one_.add_sequence(ids);
  Cache* const caches[] = {&cache};
  const MatrixView<const C> logits = decode(ctx, caches, one_);
  return {logits.data, static_cast<std::size_t>(logits.cols)};
}

template <class T, class Backend>
void DecoderModel<T, Backend>::forward_after(Context& ctx, std::span<Cache* const> caches, const Batch& batch,
                                             bool with_targets) {
  const auto sequences = static_cast<std::size_t>(batch.sequences());
  if (caches.size() != sequences) {
    throw ModelError("decode: " + std::to_string(caches.size()) + " caches for " + std::to_string(sequences) +
                     " sequences");
  }
  following_ = batch;
  past_.clear();
  index_t longest = 1;
  for (std::size_t s = 0; s < sequences; ++s) {
    const Cache& cache = *caches[s];
    if (cache.length() + batch.lengths[s] > cache.capacity()) {
      throw ModelError("decode: " + std::to_string(batch.lengths[s]) + " tokens after " +
                       std::to_string(cache.length()) + " do not fit into a cache for " +
                       std::to_string(cache.capacity()));
    }
    past_.push_back(cache.length());
    longest = std::max(longest, cache.capacity());
    for (index_t i = batch.offsets[s]; i < batch.offsets[s + 1]; ++i)
      following_.position_ids[static_cast<std::size_t>(i)] =
          static_cast<std::int32_t>(cache.length() + i - batch.offsets[s]);
  }
  check(following_, with_targets);
  require_room(ctx, following_, longest, false);
  placed_.place(
      ctx, following_, false,
      {rows_, with_targets ? std::span<const std::int32_t>(targets_) : std::span<const std::int32_t>()});
  tokens_ = batch.tokens();
  training_ = false;
  const index_t q_cols = shape_.q_cols();
  const index_t kv_cols = shape_.kv_cols();
  forward_blocks(ctx, [&](index_t l, MatrixView<const T> qkv, MatrixView<T> context) {
    keys_.clear();
    values_.clear();
    for (std::size_t s = 0; s < sequences; ++s) {
      const index_t first = batch.offsets[s];
      const index_t rows = batch.lengths[s];
      keys_.push_back(caches[s]->keys(l));
      values_.push_back(caches[s]->values(l));
      Backend::template copy<T>(ctx, qkv.block(first, q_cols, rows, kv_cols),
                                keys_.back().block(past_[s], 0, rows, kv_cols));
      Backend::template copy<T>(ctx, qkv.block(first, q_cols + kv_cols, rows, kv_cols),
                                values_.back().block(past_[s], 0, rows, kv_cols));
    }
    Ops::template attention_after<T>(ctx, shape_, placed_, past_, keys_, values_, longest, qkv, context,
                                     attention_work_);
  });
  for (std::size_t s = 0; s < sequences; ++s)
    caches[s]->lengthen(batch.lengths[s]);
}

template <class T, class Backend>
MatrixView<const compute_t<T>> DecoderModel<T, Backend>::decode(Context& ctx, std::span<Cache* const> caches,
                                                                const Batch& batch) {
  backward_possible_ = false;
  rows_.clear();
  for (std::size_t s = 1; s < batch.offsets.size(); ++s)
    rows_.push_back(static_cast<std::int32_t>(batch.offsets[s] - 1));
  forward_after(ctx, caches, batch, false);
  host_logits_.resize(rows_.size() * static_cast<std::size_t>(config_.vocab_size));
  for_logits(ctx, [&](index_t first, MatrixView<C> logits) {
    Backend::template download<C>(ctx, logits.data, host_logits_.data() + first * config_.vocab_size,
                                  logits.size());
  });
  return MatrixView<const C>(host_logits_.data(), batch.sequences(), config_.vocab_size);
}

template <class T, class Backend>
std::span<const double> DecoderModel<T, Backend>::token_losses_after(Context& ctx,
                                                                     std::span<Cache* const> caches,
                                                                     const Batch& batch) {
  backward_possible_ = false;
  take_targets(batch);
  forward_after(ctx, caches, batch, true);
  for_logits(ctx, [&](index_t first, MatrixView<C> logits) { (void)loss_of(ctx, first, logits, false); });
  if (!rows_.empty())
    Backend::template download<double>(ctx, losses_, token_losses_.data(),
                                       static_cast<index_t>(rows_.size()));
  return token_losses_;
}

}  // namespace sparsegrad::finetune
