#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <sparsegrad/sparse_grad_linear.hpp>

#include "models/encoder/heads.hpp"
#include "models/encoder/parameter_shapes.hpp"
#include "models/layers/layer_ops.hpp"
#include "models/layers/placed_batch.hpp"
#include "models/mlp/mlp_training.hpp"
#include "models/model_passes.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// A BERT or RoBERTa encoder with head. Hidden states are [tokens, hidden]; see Batch for what a row is.
///
/// One layer, x the layer's input:
///     qkv = x [Wq|Wk|Wv]^T           context = attention(qkv + b)
///     x1  = norm1(dropout(context Wo^T + bo) + x)
///     h   = x1 Wup^T                 a = gelu(h + bup)
///     x'  = norm2(dropout(a Wdown^T + bdown) + x1)
/// Head, h the last state of a sequence's first token: logits = dropout(tanh(h Wd^T + bd)) Wo^T + bo; RoBERTa drops out
/// h as well.
/// Wup and Wdown are MlpMatrix objects without bias (the bias is part of the fused passes).
///
/// T = bfloat16 or float16: activations, their gradients and the operands of products are stored in T. Weights (see
/// Parameter) and their gradients, every sum, the statistics of LayerNorm and softmax, logits and losses are in
/// C = compute_t<T> = float. Otherwise C is T.
template <class T, class Backend>
class EncoderModel {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  using MlpLayer = SparseGradLinear<T, Backend>;

  /// Weights are zeros, LayerNorm weights ones. The context must outlive the model. Throws ModelError for an impossible
  /// configuration.
  EncoderModel(Context& ctx, const ModelConfig& config, TrainedParts trained = {});
  EncoderModel(const EncoderModel&) = delete;
  EncoderModel& operator=(const EncoderModel&) = delete;

  const ModelConfig& config() const { return config_; }
  /// Dropout probabilities may be changed between passes.
  void set_dropout(double probability) { config_.set_dropout(probability); }

  ParameterSet<T, Backend>& parameters() { return parameters_; }
  const ParameterSet<T, Backend>& parameters() const { return parameters_; }

  /// All weights as transformers initialises them: normal (0, initializer_range), biases 0, LayerNorm 1 and 0.
  void initialize(std::uint64_t seed);
  /// The same for parameters of these names.
  void initialize(std::uint64_t seed, const ParameterRule& which);

  /// Copies between host memory and a matrix of the model's.
  void set_values(MatrixView<C> matrix, std::span<const C> values) {
    parameters_.set_values(ctx_, matrix, values);
  }
  std::vector<C> values(MatrixView<const C> matrix) const { return parameters_.values(ctx_, matrix); }

  bool trains_mlp() const { return !mlp_.layers.empty(); }
  /// The MLP matrices' gradients: of layer l, number 2 l is "up" (intermediate.dense) and 2 l + 1 "down" (output.dense).
  /// Empty when they are not trained.
  std::deque<MlpLayer>& mlp() { return mlp_.layers; }
  MlpLayer& mlp_up(index_t layer) { return mlp_.layers[static_cast<std::size_t>(2 * layer)]; }
  MlpLayer& mlp_down(index_t layer) { return mlp_.layers[static_cast<std::size_t>(2 * layer + 1)]; }
  std::string mlp_name(index_t number) const {
    return layer_parameter(config_, number / 2,
                           number % 2 == 0 ? "intermediate.dense.weight" : "output.dense.weight");
  }

  /// After this, passes over at most so many tokens, sequences and rows a sequence allocate nothing, unless a layer's
  /// basis or collection changes what it keeps. `training` false: for evaluation alone, with far less memory.
  void reserve(Context& ctx, index_t max_tokens, index_t max_sequences, index_t max_length,
               bool training = true);

  struct Result {
    MatrixView<const C> logits;  ///< [sequences, num_labels], in host memory, until the next forward
    double loss = 0;             ///< mean over the sequences
  };
  /// Throws ModelError for ids, positions, types or labels out of range.
  Result forward(Context& ctx, const Batch& batch, const ForwardOptions& options = {});

  /// Adds the gradients of loss_scale * loss of the last forward, which was a training one, to the dense gradients and
  /// to the MLP layers. `batch` is that of forward. Throws StateError otherwise.
  void backward(Context& ctx, const Batch& batch, double loss_scale = 1);

  /// Called within backward as soon as the gradient of MLP matrix `number` (as in mlp()) is complete for this pass. The
  /// callback may use the gradient and change the matrix; backward has no more need of either.
  void on_mlp_gradient(std::function<void(index_t number)> callback) {
    on_mlp_gradient_ = std::move(callback);
  }
  /// Called within backward as soon as the gradients of all dense parameters of layer `layer` are complete for this pass.
  void on_layer_gradients(std::function<void(index_t layer)> callback) {
    on_layer_gradients_ = std::move(callback);
  }

  /// What a file of the model holds for an MLP matrix that is not W itself: W with its adapter. Else nothing.
  std::optional<std::vector<C>> merged(const Parameter<T>& parameter) const;

  ModelMemory memory() const;

 private:
  using Ops = LayerOps<Backend>;

  struct LayerParameters {
    Linear<T, Backend> qkv, attention_output;
    MlpMatrix<T, Backend>*up, *down;
    const C *qkv_bias, *attention_output_bias, *up_bias, *down_bias;
    C *d_qkv_bias, *d_attention_output_bias, *d_up_bias, *d_down_bias;
    LayerNorm<C> norm1, norm2;
  };
  /// What a layer keeps for its backward.
  struct LayerActivations {
    T* qkv;
    T* context;
    C* log_sums;
    T* xhat1;
    C* rstd1;
    T* x1;
    T* slope;  ///< h, then gelu'
    T* a;
    T* xhat2;
    C* rstd2;
    T* x;  ///< the layer's output
    T* saved_up;
    T* saved_down;
  };

  enum Site {
    embedding_site,
    attention_site,
    attention_output_site,
    mlp_output_site,
    head_site,
    head_input_site
  };

  void bind();
  std::vector<C> initial_values(const Parameter<T>& parameter, std::uint64_t key) const;
  void lay_out(Context& ctx);
  void require_room(Context& ctx, const Batch& batch, bool training);
  /// An MLP matrix's memory of this pass.
  MatrixView<T> lent(T* data, index_t cols) const {
    return cols > 0 ? tokens_by(data, cols) : MatrixView<T>();
  }
  Dropout<C> dropout(double probability, index_t layer, Site site) const;

  Dropout<C> head_input_dropout() const {
    if (config_.family != ModelFamily::roberta) return {};
    return dropout(config_.classifier_dropout, -1, head_input_site);
  }
  void forward_layer(Context& ctx, index_t l, MatrixView<const T> x);
  void backward_layer(Context& ctx, index_t l, MatrixView<const T> x);

  MatrixView<T> tokens_by(T* data, index_t cols) const { return MatrixView<T>(data, tokens_, cols); }

  Context& ctx_;
  ModelConfig config_;
  TrainedParts trained_;
  ParameterSet<T, Backend> parameters_;
  MlpMatrices<T, Backend> mlp_;
  AttentionShape attention_;
  Embeddings<C> embeddings_;
  std::vector<LayerParameters> layers_;
  Pooler<T, Backend> pooler_;
  ClassificationHead<T, Backend> head_;

  PlacedBatch<Backend> placed_;
  std::vector<C> host_logits_, host_d_logits_;  ///< [max_sequences, num_labels]

  // Arena of activations, and the pieces in it: some of T, some of C.
  Buffer<C, Backend> arena_;
  index_t max_tokens_ = 0;
  index_t max_sequences_ = 0;
  index_t max_length_ = 0;
  bool room_for_training_ = false;
  std::vector<index_t> laid_out_saved_;  ///< of the MLP matrices, while training
  std::vector<LayerActivations> activations_;
  T *embedding_xhat_ = nullptr, *embedding_y_ = nullptr;
  T *first_ = nullptr, *pooled_ = nullptr, *dropped_ = nullptr, *d_pooled_ = nullptr, *d_first_ = nullptr;
  C *embedding_rstd_ = nullptr, *logits_ = nullptr, *d_logits_ = nullptr, *attention_work_ = nullptr;
  // Gradients in flight.
  T *g_ = nullptr, *g_product_ = nullptr, *g_context_ = nullptr, *g_qkv_ = nullptr, *g_a_ = nullptr,
    *g_mlp_ = nullptr, *g_work_ = nullptr;

  // The last pass.
  index_t tokens_ = 0;
  bool training_ = false;
  bool backward_possible_ = false;
  std::uint64_t pass_key_ = 0;
  std::function<void(index_t)> on_mlp_gradient_;
  std::function<void(index_t)> on_layer_gradients_;
};

}  // namespace sparsegrad::finetune
