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
#include <optional>
#include <span>
#include <vector>

#include <sparsegrad/sparse_grad_linear.hpp>

#include "models/decoder/decoder_names.hpp"
#include "models/decoder/key_value_cache.hpp"
#include "models/layers/layer_ops.hpp"
#include "models/layers/placed_batch.hpp"
#include "models/mlp/mlp_training.hpp"
#include "models/model_passes.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// A decoder of the LLaMA family with its head. Hidden states are [tokens, hidden]; see Batch for what a row is.
template <class T, class Backend>
class DecoderModel {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  using MlpLayer = SparseGradLinear<T, Backend>;
  using Cache = KeyValueCache<T, Backend>;

  /// Weights are zeros, those of norms ones. The context must outlive the model. Throws ModelError for an impossible
  /// configuration or choice of matrices.
  DecoderModel(Context& ctx, const DecoderConfig& config, TrainedParts trained = {});
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
  void set_values(MatrixView<C> matrix, std::span<const C> values);
  std::vector<C> values(MatrixView<const C> matrix) const;

  bool trains_mlp() const { return !mlp_.layers.empty(); }
  /// The chosen matrices' gradients, in ascending order of blocks and kinds. Empty when they are not trained, or have
  /// adapters.
  std::deque<MlpLayer>& mlp() { return mlp_.layers; }
  /// The parameter's name of mlp()[number].
  std::string mlp_name(index_t number) const { return mlp_names_[static_cast<std::size_t>(number)]; }

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

  /// Logits of every row, [tokens, vocab], to host memory: for small batches, of which no pass is kept.
  std::vector<C> logits(Context& ctx, const Batch& batch);

  /// Appends tokens to the cache and returns the logits [vocab] of the one that follows the last of them, in host memory
  /// until the next pass. Throws ModelError for no ids, ids out of range, or more tokens than the cache has room for.
  std::span<const C> decode(Context& ctx, Cache& cache, std::span<const std::int32_t> ids);
  /// The same for several sequences side by side: sequence s of the batch goes on from *caches[s]. Logits
  /// [sequences, vocab].
  MatrixView<const C> decode(Context& ctx, std::span<Cache* const> caches, const Batch& batch);

  /// What a file of the model holds for a matrix that is not W itself: W with its adapter. Else nothing.
  std::optional<std::vector<C>> merged(const Parameter<T>& parameter) const;

  ModelMemory memory() const;
  /// Sums over all passes since the last reset; measured only after `measure_times(true)`.
  const ModelTimes& times() const { return times_; }
  void measure_times(bool on) {
    measuring_ = on;
    times_ = {};
  }

 private:
  Context& ctx_;
  DecoderConfig config_;
  TrainedParts trained_;
  ParameterSet<T, Backend> parameters_;
  MlpMatrices<T, Backend> mlp_;
  std::vector<std::string> mlp_names_;
  std::function<void(index_t)> on_mlp_gradient_;
  bool measuring_ = false;
  ModelTimes times_;
};

}  // namespace sparsegrad::finetune
