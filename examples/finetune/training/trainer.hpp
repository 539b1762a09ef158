// The training loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <sparsegrad/extras/communicator.hpp>

#include "training/glue_run_data.hpp"
#include "training/gradient_sums.hpp"
#include "training/mlp/make_mlp_optimizer.hpp"
#include "training/optimizer/adamw.hpp"
#include "training/optimizer/learning_rate.hpp"
#include "training/optimizer/loss_scale.hpp"
#include "training/run_data.hpp"
#include "training/run_extents.hpp"
#include "training/train_report.hpp"
#include "training/trained_parts.hpp"

namespace sparsegrad::finetune {

/// What the trainer calls; each may be empty.
struct TrainHooks {
  std::function<void()> keep_best;                         ///< the model is the best so far
  std::function<void(const EvaluationRecord&)> evaluated;  ///< after keep_best
  std::function<void(std::string_view what, index_t done, index_t total)> progress;
  std::function<bool()> interrupted;  ///< asked after each step: whether to end
  std::function<void()> checkpoint;   ///< called every checkpoint_every steps, evaluation done
  /// Puts the weights of the start back, bit by bit, after phase 1 (from their file, say). Without it phase 1 keeps a
  /// copy of them.
  std::function<void()> restore_weights;
};

/// Trains a model that was made for the options' run type (see trained_parts) on what `RunData` gives it. Gradients are
/// means over the weights of the examples of all micro-batches of a step. Equal seeds give the same order of examples and
/// the same dropout masks in all run types.
template <class Model>
class BasicTrainer {
 public:
  using T = typename ModelTypes<Model>::Number;
  using Backend = typename ModelTypes<Model>::Backend;
  using Context = typename Backend::Context;
  using Group = SparseGradGroup<T, Backend>;

  /// All arguments but the options are borrowed. `program_bytes`: memory of the process before the model was made.
  /// Throws ValueError for bad options and for an empty training set.
  /// `processes`: those that share the examples of a step, as many as the options say; null: this one alone.
  BasicTrainer(Context& ctx, Model& model, RunData<Model>& data, TrainOptions options,
               index_t program_bytes = 0, Communicator* processes = nullptr);

  /// Phase 1 where it is needed, then the steps. Throws NonFiniteError naming the step when loss or gradient is NaN or
  /// Inf. What was recorded up to there stays in report().
  void run(const TrainHooks& hooks = {});

  /// The parts of `run`. Bases are collected and set; everything else is as before (but for keep_phase1, which keeps
  /// the weights). False when it was interrupted.
  bool collect_bases(const TrainHooks& hooks = {});
  /// One optimizer step. `look`, if given, is called between its gradients and its update.
  void step(const std::function<void()>& look = {});

  const TrainReport& report() const { return report_; }
  /// Null where no matrix is stepped sparsely.
  const Group* group() const { return sparse_ == nullptr ? nullptr : &sparse_->group(); }
  index_t steps_planned() const { return report_.steps_planned; }
  index_t steps_done() const { return report_.steps_done; }
  const LossScale& loss_scale() const { return loss_scale_; }
  /// Numbers that are trained by AdamW, and those of the MLP matrices that are trained sparsely.
  index_t dense_parameters() const;
  index_t sparse_parameters() const;
  /// Entries of the MLP matrices that a step changes; 0 unless sparse.
  index_t entries_a_step() const;

  /// Throws CommunicationError, naming one that differs, unless all processes have the same options, data and state.
  void require_same_state();

  /// Hash of weights, both optimizers' states, sampler, and counters of steps and dropout: what phase 1 must not change.
  std::uint64_t state_hash() const;

  MemoryParts memory_now() const;

  /// The whole state between two steps as a file, written aside, checked and renamed; the file that was there before
  /// stays beside it as `path`.previous. Throws StateError while gradients are collected for a refresh, IoError.
  void save_state(const std::filesystem::path& path);
  /// Puts back what save_state wrote, in a trainer made with the same options and data; `run` then goes on with the same
  /// bits. A file that is torn or altered is passed over for the one before it and renamed to `path`.torn: the text says
  /// why, empty if all was well. Throws ValueError naming an option that differs, IoError when neither file serves.
  std::string restore_state(const std::filesystem::path& path);

  /// Throws IoError unless the file holds this state's weights and both optimizers' moments, bit by bit.
  void check_written(const std::filesystem::path& path);

 private:
  using Clock = std::chrono::steady_clock;
  struct StepLoss {
    double loss = 0;
    index_t examples = 0;
    index_t tokens = 0;
  };

  std::uint64_t dropout_key(std::uint64_t pass) const;
  index_t examples_a_step() const { return options_.batch_size * options_.accumulation; }
  void reserve();
  /// Sums of this step's gradients, over all its micro-batches and processes.
  StepLoss accumulate();
  /// The mean loss of these examples; gradients are those of `share` times it. `sends`: gradients are complete with it.
  double add_micro_batch(std::span<const index_t> examples, std::uint64_t number, double share, bool sends);
  /// A gradient that is summed by itself: of an MLP matrix, or of the dense parameters of a layer.
  struct GradientPart {
    index_t layer = -1;              ///< -1: of none
    index_t matrix = -1;             ///< number of an MLP matrix; -1: dense
    MatrixView<float> dense = {};    ///< of those
    bool complete = false;           ///< in this process, with all of its micro-batches
    std::vector<float> before = {};  ///< the sum over the micro-batches before, where they are added in order
  };
  /// All of them, in about the order in which backward completes them.
  std::vector<GradientPart> gradient_parts();
  MatrixView<float> gradient_of(const GradientPart& part);
  /// Starts the sum over the processes of what is complete and comes next.
  void complete(index_t layer, index_t matrix);
  void start_sum(const GradientPart& part);
  /// Starts the sums of what is left.
  void start_other_sums();
  /// gradient <- the sum over the micro-batches before + gradient.
  void add_before(const GradientPart& part, MatrixView<float> gradient) const;
  /// Ends the sums over a micro-batch of each process, and puts them aside: more are to be added to them.
  void put_aside();
  /// Sums over the processes, where there are several: losses of micro-batches, and whether any is to end.
  void exchange(std::vector<double>& losses);
  bool asked_to_stop(const TrainHooks& hooks) const;
  /// Throws NonFiniteError, naming the last step, where it met NaN or Inf and that shows now; see MlpOptimizer::check.
  void check_last_step(bool waits);
  /// False, where the loss is scaled and a gradient overflowed: all are forgotten then, and the scale is lower.
  bool gradients_are_whole();
  /// The factor for all gradients that the loss scale and clipping ask for.
  double gradient_scale();
  std::vector<MlpTarget<T, Backend>> mlp_targets();
  void evaluate(const TrainHooks& hooks, bool& stop);
  bool evaluation_due() const;
  /// A collection for a refresh is finished first, so that what is left behind is whole.
  bool may_stop() const { return !mlp_->collecting(); }
  void read_state(const std::filesystem::path& path);
  /// What must be the same for a run to go on: every option but where things lie, and the data's size.
  const nlohmann::json& fingerprint() const;
  /// Of the state and the bases.
  std::uint64_t checkpoint_hash() const;
  double epoch() const;

  Context& ctx_;
  Model& model_;
  RunData<Model>& data_;
  TrainOptions options_;
  index_t program_bytes_;
  Communicator* processes_;            ///< null: this one alone
  std::function<bool()> interrupted_;  ///< of this process
  bool matrices_apart_ = false;  ///< the matrices' gradients are taken one by one, and no sums of processes
  bool finite_ = true;           ///< this process's gradients of this step, of several processes
  bool all_stop_ = false;        ///< of several processes: one was interrupted
  std::vector<GradientPart> parts_;
  std::size_t next_part_ = 0;           ///< whose sum is the next to start
  std::unique_ptr<GradientSums> sums_;  ///< of several processes
  Sampler sampler_;
  std::uint64_t pass_ = 0;  ///< forward passes in training: numbers the dropout masks
  LearningRate rate_;
  LossScale loss_scale_ = LossScale::of<T>();
  Batch batch_;
  BatchExtents extents_;
  std::unique_ptr<AdamW<T, Backend>> dense_;
  std::unique_ptr<MlpOptimizer<T, Backend>> mlp_;
  SparseMlp<T, Backend>* sparse_ = nullptr;           ///< that one, where it is: what phase 1 is for
  std::unique_ptr<DenseMlp<T, Backend>> phase1_mlp_;  ///< during phase 1
  index_t copied_bytes_ = 0;                          ///< of the weights' copy during phase 1
  double loss_since_record_ = 0;
  index_t steps_since_record_ = 0;
  index_t since_best_ = 0;
  index_t kept_ = 0;
  bool resumed_ = false;
  mutable std::shared_ptr<const nlohmann::json> fingerprint_;  ///< made once, as it hashes all examples
  TrainReport report_;
};

/// The trainer of an encoder on a GLUE task, with its data.
template <class T, class Backend>
class GlueTrainer : private detail::GlueTrainerData<T, Backend>,
                    public BasicTrainer<EncoderModel<T, Backend>> {
 public:
  using Model = EncoderModel<T, Backend>;

  /// As BasicTrainer's; the data sets are borrowed, `dev` is evaluated with the task's metrics.
  GlueTrainer(typename Backend::Context& ctx, Model& model, const Task& task, const EncodedDataset& train,
              const EncodedDataset& dev, const TrainOptions& options, index_t program_bytes = 0,
              Communicator* processes = nullptr)
      : detail::GlueTrainerData<T, Backend>{{task, train, dev, options.padding}},
        BasicTrainer<Model>(ctx, model, this->data, options, program_bytes, processes) {}

  /// GlueRunData::also_evaluate, before the first step.
  void also_evaluate(const EncodedDataset& second, std::string suffix) {
    this->data.also_evaluate(second, std::move(suffix));
  }
};

using Trainer = GlueTrainer<float, HostBackend>;

}  // namespace sparsegrad::finetune
