// DecoderModel: language models of the LLaMA family.
//
// To fill one (checkpoints of any kind): make it from a DecoderConfig, then for each Parameter p of parameters().all()
// whose kind is not ParameterKind::adapter give set_values(p.weight, values) the tensor of Hugging Face's name p.name, in
// C = compute_t<T>, rows one after the other ([out, in]; q and k with their rows as Hugging Face has them, the halves of a
// head apart, not interleaved). Of a tied head there is no "lm_head.weight". initialize(seed, rule) makes the adapters.
//
// To train one: TrainedParts{.mlp, .dense, .matrices}. mlp() are the chosen matrices in ascending order of their blocks,
// within a block in the order of MatrixKind; mlp_name(number) is the parameter's name of mlp()[number]. .dense = a rule
// that is always false freezes norms, biases, embeddings and head.
//
// A batch: clear(), then add_sequence(ids, targets) for each sequence: targets[i] is the token that ids[i]'s row predicts
// (the next one), -1 where it is not counted. Result::counted is the weight of a micro-batch in its step.
//
// To generate: KeyValueCache<T, Backend> cache(ctx, config, capacity); logits = model.decode(ctx, cache, prompt) and then
// model.decode(ctx, cache, {&token, 1}) for each token.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include <sparsegrad/sparse_grad_linear.hpp>

#include "models/decoder/decoder_names.hpp"
#include "models/decoder/key_value_cache.hpp"
#include "models/layers/batch.hpp"
#include "models/layers/decoder_ops.hpp"
#include "models/layers/linear.hpp"
#include "models/layers/placed_batch.hpp"
#include "models/mlp/frozen_weight.hpp"
#include "models/mlp/mlp_training.hpp"
#include "models/model_passes.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// A decoder of the LLaMA family with its head. Hidden states are [tokens, hidden]; see Batch for what a row is.
///
/// One block, x the residual stream at its input:
///     n  = norm1(x)                  q, k, v = n Wq^T + bq, n Wk^T + bk, n Wv^T + bv; q and k rotated
///     x1 = x + attention(q, k, v) Wo^T + bo
///     n  = norm2(x1)                 x' = x1 + (silu(n Wgate^T) (n Wup^T)) Wdown^T
/// Head: logits = norm(x') Whead^T, of the rows that count alone and never of all at a time. All seven matrices are
/// MlpMatrix objects.
///
/// A block keeps x, x1, q, k, v, the attention's result, gate and up; norms and silu(gate) up are computed again where
/// backward needs them. Under the lowest trained parameter nothing is kept and backward ends. With recompute(true) a block
/// keeps x alone.
///
/// T = bfloat16: activations, their gradients and the operands of products are stored in T; weights and their gradients,
/// every sum, statistics, logits and losses are in C = compute_t<T>, as EncoderModel has them.
template <class T, class Backend>
class DecoderModel {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  using MlpLayer = SparseGradLinear<T, Backend>;
  using Cache = KeyValueCache<T, Backend>;

  /// Weights are zeros, those of norms ones; matrices, embeddings and head that are not trained in place stay in the form
  /// that `packed` has of them. The context must outlive the model. Throws ModelError for an impossible configuration or
  /// choice of matrices.
  DecoderModel(Context& ctx, const DecoderConfig& config, TrainedParts trained = {},
               const PackedMatrices& packed = {});
  DecoderModel(const DecoderModel&) = delete;
  DecoderModel& operator=(const DecoderModel&) = delete;

  const DecoderConfig& config() const { return config_; }

  ParameterSet<T, Backend>& parameters() { return parameters_; }
  const ParameterSet<T, Backend>& parameters() const { return parameters_; }

  /// All weights as transformers initialises them: normal (0, initializer_range), biases 0, norms 1.
  void initialize(std::uint64_t seed);
  /// The same for parameters of these names.
  void initialize(std::uint64_t seed, const ParameterRule& which);

  /// Copies between host memory and a matrix of the model's.
  void set_values(MatrixView<C> matrix, std::span<const C> values) {
    parameters_.set_values(ctx_, matrix, values);
  }
  std::vector<C> values(MatrixView<const C> matrix) const { return parameters_.values(ctx_, matrix); }
  /// The values of a parameter, packed or not.
  std::vector<C> values_of(const Parameter<T>& parameter) const;

  bool trains_mlp() const { return !mlp_.layers.empty(); }
  /// The chosen matrices' gradients, in ascending order of blocks and kinds. Empty when they are not trained, or have
  /// adapters.
  std::deque<MlpLayer>& mlp() { return mlp_.layers; }
  /// What keeps the updates of mlp()[number] beside a matrix that stays packed; null: they go to the matrix itself.
  AccumulatedUpdate<C, Backend>* mlp_update(index_t number) {
    return mlp_.updates[static_cast<std::size_t>(number)].get();
  }
  /// The parameter's name of mlp()[number].
  std::string mlp_name(index_t number) const { return mlp_names_[static_cast<std::size_t>(number)]; }

  /// Of a block nothing is kept but its input, and backward runs its forward again: the same bits for far less memory, and
  /// the time of a forward more. Before reserve; else the next pass takes its room anew.
  void recompute(bool on) {
    recomputes_ = on;
    room_for_training_ = false;
  }

  /// After this, passes over at most so many tokens, sequences and rows a sequence allocate nothing, unless a layer's
  /// basis or collection changes what it keeps. `training` false: for evaluation alone, with far less memory.
  void reserve(Context& ctx, index_t max_tokens, index_t max_sequences, index_t max_length,
               bool training = true);

  struct Result {
    double loss = 0;      ///< mean over the counted targets; 0 without any
    index_t counted = 0;  ///< targets that are not -1
    /// -log of the probability of each counted target, in the order of rows, until the next forward.
    std::span<const double> token_losses;
  };
  /// Throws ModelError for ids or targets out of range and for sequences longer than the model's positions.
  Result forward(Context& ctx, const Batch& batch, const ForwardOptions& options = {});

  /// Adds the gradients of loss_scale * loss of the last forward, which was a training one, to the dense gradients and
  /// to the matrices' layers. `batch` is that of forward. Throws StateError otherwise.
  void backward(Context& ctx, const Batch& batch, double loss_scale = 1);

  /// Called within backward as soon as the gradient of mlp()[number] is complete for this pass. The callback may use the
  /// gradient and change the matrix; backward has no more need of either.
  void on_mlp_gradient(std::function<void(index_t number)> callback) {
    on_mlp_gradient_ = std::move(callback);
  }
  /// Called within backward as soon as the gradients of all dense parameters of block `layer` are complete for this pass.
  void on_layer_gradients(std::function<void(index_t layer)> callback) {
    on_layer_gradients_ = std::move(callback);
  }

  /// Logits of every row, [tokens, vocab], to host memory: for small batches, of which no pass is kept.
  std::vector<C> logits(Context& ctx, const Batch& batch);

  /// Appends tokens to the cache and returns the logits [vocab] of the one that follows the last of them, in host memory
  /// until the next pass. Throws ModelError for no ids, ids out of range, or more tokens than the cache has room for.
  std::span<const C> decode(Context& ctx, Cache& cache, std::span<const std::int32_t> ids);
  /// The same for several sequences side by side: sequence s of the batch goes on from *caches[s]. Logits
  /// [sequences, vocab].
  MatrixView<const C> decode(Context& ctx, std::span<Cache* const> caches, const Batch& batch);

  /// -log of the probability of each counted target of sequences that go on from *caches, in the order of rows, until the
  /// next pass: what forward has for them after all that the caches hold. Throws as decode, and for targets out of range.
  std::span<const double> token_losses_after(Context& ctx, std::span<Cache* const> caches,
                                             const Batch& batch);

  /// What a file of the model holds for a matrix that is not W itself: W with its adapter or its updates. Else nothing.
  std::optional<std::vector<C>> merged(const Parameter<T>& parameter) const;

  ModelMemory memory() const;

 private:
  using Ops = DecoderOps<Backend>;
  using Matrix = MlpMatrix<T, Backend>;

  /// The gradients that backward wants of a block, each only together with those below it in this list: nothing under the
  /// lowest trained parameter is computed or kept.
  struct Wanted {
    bool norm1 = false;      ///< at the result of the first norm
    bool qkv = false;        ///< at q, k and v
    bool attention = false;  ///< at the residual stream between the two halves
    bool norm2 = false;      ///< at the result of the second norm
    bool wide = false;       ///< at gate and up
    bool block = false;      ///< at the block's result
    bool input = false;      ///< at the block's input
  };
  struct Block {
    Matrix *o, *down;  ///< those that read the residual stream's gradient
    const C *qkv_bias, *o_bias;
    C *d_qkv_bias, *d_o_bias;  ///< null: frozen, or none
    RmsNorm<C> norm1, norm2;
    Wanted wanted;
  };
  /// What a block keeps for its backward, as far as that is wanted; otherwise pieces that blocks share.
  struct BlockActivations {
    T* x;  ///< the residual stream at its input; before that, what the block below adds to it
    C* rstd1;
    T* qkv;  ///< rotated
    C* log_sums;
    T* context;
    T* x1;  ///< the residual stream between the halves
    C* rstd2;
    T *gate, *up;
    T* saved[all_matrix_kinds.size()];  ///< lent to the matrices, by kind
  };

  void bind();
  void plan_backward();
  std::vector<C> initial_values(const Parameter<T>& parameter, std::uint64_t key) const;
  void lay_out(Context& ctx);
  void require_room(Context& ctx, const Batch& batch, index_t longest, bool training);
  void require_positions(Context& ctx, index_t positions);
  void check(const Batch& batch, bool with_targets) const;
  Matrix& matrix(index_t block, MatrixKind kind) const {
    return *mlp_.matrices[all_matrix_kinds.size() * static_cast<std::size_t>(block) +
                          static_cast<std::size_t>(kind)];
  }

  /// Blocks and the rows that take part in the loss, or that logits are wanted of (`rows_`), up to their last norm.
  template <class Attend>
  void forward_blocks(Context& ctx, Attend&& attend);
  template <class Attend>
  void forward_block(Context& ctx, index_t l, MatrixView<const T> residual, Attend&& attend);
  /// The end of a block, from gate and up to what the next one adds to its input.
  void forward_down(Context& ctx, index_t l);
  void forward_matrix(Context& ctx, index_t l, MatrixKind kind, MatrixView<const T> x, MatrixView<T> y);
  /// Attention of whole sequences.
  void attend(Context& ctx, index_t l, MatrixView<const T> qkv, MatrixView<T> context);
  /// What a block's backward wants of its forward, from the block's input.
  void forward_again(Context& ctx, index_t l);
  /// Blocks of sequences that go on from caches, up to the last norm of rows_; appends to the caches.
  void forward_after(Context& ctx, std::span<Cache* const> caches, const Batch& batch, bool with_targets);
  /// The rows of a batch that have a target, and those.
  void take_targets(const Batch& batch);
  /// Calls f(first, logits) for logits of rows_ from `first` on, a chunk at a time.
  template <class F>
  void for_logits(Context& ctx, F&& f);
  /// Of a chunk's logits, which are overwritten: the targets' losses and, if it is wanted, the gradient.
  MatrixView<T> loss_of(Context& ctx, index_t first, MatrixView<C> logits, bool with_gradient);
  /// Rows of a chunk: of no more than 32 MB of floats, but no fewer than products need.
  index_t logit_rows() const {
    const index_t rows = std::max<index_t>((index_t{1} << 23) / config_.vocab_size, 16);
    return std::min(rows, max_tokens_);
  }
  void backward_block(Context& ctx, index_t l);
  void backward_attention(Context& ctx, index_t l);
  void backward_matrix(Context& ctx, index_t l, MatrixKind kind, MatrixView<T> dy, MatrixView<const T> x,
                       MatrixView<T> dx, InputGradient mode = InputGradient::overwrite);

  /// Whether backward of one of these matrices reads its input.
  bool needs_input(index_t l, std::initializer_list<MatrixKind> kinds) const;
  /// g, or a copy of it for a matrix that changes its dY: g itself goes on along the residual path.
  MatrixView<T> kept_apart(Context& ctx, const Matrix& matrix, MatrixView<T> g);

  MatrixView<T> tokens_by(T* data, index_t cols) const { return MatrixView<T>(data, tokens_, cols); }
  MatrixView<T> rows_by(T* data) const {
    return MatrixView<T>(data, static_cast<index_t>(rows_.size()), config_.hidden);
  }
  /// A matrix's memory of this pass.
  MatrixView<T> lent(T* data, index_t cols) const {
    return cols > 0 ? tokens_by(data, cols) : MatrixView<T>();
  }

  Context& ctx_;
  DecoderConfig config_;
  TrainedParts trained_;
  ParameterSet<T, Backend> parameters_;
  MlpMatrices<T, Backend> mlp_;
  std::vector<std::string> mlp_names_;
  std::vector<index_t> mlp_number_;  ///< by matrix: its number in mlp(), or -1
  CausalShape shape_;
  MatrixView<const C> table_;  ///< or packed_table_
  FrozenWeight<T, Backend> packed_table_;
  MatrixView<C> d_table_;
  FrozenWeight<T, Backend> head_;
  MatrixView<C> d_head_;
  RmsNorm<C> last_norm_;
  std::vector<Block> blocks_;
  Wanted wanted_;  ///< of what follows the blocks: `block` at its input
  std::vector<float> frequencies_;
  Buffer<C, Backend> angles_;
  RopeTable<C> rope_;

  PlacedBatch<Backend> placed_;
  // Rows that take part in the loss, and what they are to predict.
  std::vector<std::int32_t> rows_, targets_;
  std::vector<double> token_losses_;
  // Of decode.
  Batch one_, following_;
  std::vector<index_t> past_;
  std::vector<MatrixView<T>> keys_, values_;
  std::vector<C> host_logits_;

  // Arena of activations, and the pieces in it: some of T, some of C.
  Buffer<C, Backend> arena_;
  index_t max_tokens_ = 0;
  index_t max_sequences_ = 0;
  index_t max_length_ = 0;
  bool room_for_training_ = false;
  bool recomputes_ = false;
  std::vector<index_t> laid_out_saved_;  ///< of the matrices, while training
  std::vector<BlockActivations> activations_;
  T *tail_ = nullptr, *normed_ = nullptr, *swiglu_ = nullptr;
  T *last_x_ = nullptr, *last_ = nullptr, *d_last_ = nullptr, *d_logits_ = nullptr;
  C *last_rstd_ = nullptr, *logits_ = nullptr, *attention_work_ = nullptr;
  double* losses_ = nullptr;  ///< of the counted rows, in the backend's memory
  // Gradients in flight.
  T *g_ = nullptr, *g_copy_ = nullptr, *g_norm_ = nullptr, *g_wide_ = nullptr, *g_context_ = nullptr,
    *g_qkv_ = nullptr, *g_work_ = nullptr;

  // The last pass.
  index_t tokens_ = 0;
  bool training_ = false;
  bool backward_possible_ = false;
  std::function<void(index_t)> on_mlp_gradient_;
  std::function<void(index_t)> on_layer_gradients_;
};

}  // namespace sparsegrad::finetune
