// Definitions of BasicTrainer, for the files that instantiate it.
#pragma once

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "models/layers/step_profile.hpp"
#include "replication/reference_defects.hpp"
#include "training/glue_run_data_impl.hpp"
#include "training/run_device.hpp"
#include "training/trainer.hpp"
#include "training/trainer_sums_impl.hpp"

namespace sparsegrad::finetune {

namespace detail {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A stream of random numbers that a seed gives; the order of the examples is number 1.
inline constexpr std::uint64_t dropout_stream_number = 2;

template <class Model>
inline constexpr bool is_encoder = false;
template <class T, class Backend>
inline constexpr bool is_encoder<EncoderModel<T, Backend>> = true;

/// What an evaluation says of a model that training has made compute NaN or Inf.
inline std::string divergence_text(index_t step, const TrainOptions& options) {
  std::string rates = fmt::format("--learning-rate {}", options.learning_rate);
  if (options.trains_matrices() && options.rate_of_mlp() != options.learning_rate)
    rates += fmt::format(" and --sparse-learning-rate {}", options.rate_of_mlp());
  return fmt::format(
      "the model's loss after step {} is not finite, expected a finite number: training with {} diverged; "
      "smaller rates, a longer --warmup or a --clip-norm may keep it finite",
      step, rates);
}

/// NaN or Inf in a step before the present one, which the text names.
class EarlierStepError : public NonFiniteError {
 public:
  using NonFiniteError::NonFiniteError;
};

}  // namespace detail

template <class Model>
BasicTrainer<Model>::BasicTrainer(Context& ctx, Model& model, RunData<Model>& data, TrainOptions options,
                                  index_t program_bytes, Communicator* processes)
    : ctx_(ctx),
      model_(model),
      data_(data),
      options_(std::move(options)),
      program_bytes_(program_bytes),
      processes_(processes != nullptr && processes->size() > 1 ? processes : nullptr),
      sampler_(sampler_of(options_, data.size())),
      rate_(options_.schedule, options_.warmup, 1) {
  options_.apply_run_type();
  options_.check();
  if (data.size() == 0) throw ValueError(data.name() + ": the training set is empty, expected examples");
  if (options_.processes != (processes_ == nullptr ? 1 : processes_->size()))
    throw ValueError(fmt::format("the options are of {} processes, which are {}", options_.processes,
                                 processes_ == nullptr ? 1 : processes_->size()));
  if (model.trains_mlp() != options_.trains_matrices()) {
    throw ValueError(fmt::format("the model was made {} trained MLP matrices, which run type {} does not fit",
                                 model.trains_mlp() ? "with" : "without", to_string(options_.run_type)));
  }
  report_.steps_planned = planned_steps(options_, data.size());
  if (options_.steps_sparsely() && options_.sparse.refresh_window > report_.steps_planned) {
    throw ValueError(fmt::format("--refresh-window is {}, expected at most the run's {} steps",
                                 options_.sparse.refresh_window, report_.steps_planned));
  }
  rate_ = LearningRate(options_.schedule, options_.warmup, report_.steps_planned);
  extents_ = measure_batches(options_, data.size(), [&](index_t i) { return data.rows(i); });

  std::vector<typename AdamW<T, Backend>::Segment> dense;
  for (Parameter<T>& p : model_.parameters().all()) {
    if (p.kind == ParameterKind::mlp_matrix || p.gradient.empty()) continue;
    const double decay = p.is_bias_or_norm() ? 0 : options_.weight_decay;
    dense.push_back({p.name, p.weight.data, p.gradient.data, p.weight.size(), decay, p.rounded.data});
  }
  dense_ = std::make_unique<AdamW<T, Backend>>(ctx_, std::move(dense));
  // Of one sum: those that a process makes in a step, or one where they are added in order.
  const index_t all = options_.tokens_per_batch > 0 ? extents_.mean_batches : options_.accumulation;
  const index_t own = (all + options_.processes - 1) / options_.processes;
  const index_t batches = options_.adds_in_order() ? 1 : own;
  mlp_ = make_mlp_optimizer<T, Backend>(ctx_, options_, mlp_targets(), {extents_.mean_tokens, batches});
  sparse_ = dynamic_cast<SparseMlp<T, Backend>*>(mlp_.get());
  parts_ = gradient_parts();
  if (processes_ != nullptr) {
    sums_ = std::make_unique<GradientSums>(
        *processes_, options_.wire == NumberType::bfloat16 ? WireType::bfloat16 : WireType::same,
        options_.adds_in_order() ? SumOrder::rank : SumOrder::any);
  }
}

template <class Model>
auto BasicTrainer<Model>::mlp_targets() -> std::vector<MlpTarget<T, Backend>> {
  std::vector<MlpTarget<T, Backend>> targets;
  index_t number = 0;
  for (auto& layer : model_.mlp()) {
    const Parameter<T>& parameter = model_.parameters().at(model_.mlp_name(number));
    targets.push_back({&layer, &parameter, matrix_kind(model_.mlp_name(number))});
    if constexpr (requires { model_.mlp_update(number); }) targets.back().update = model_.mlp_update(number);
    ++number;
  }
  return targets;
}

template <class Model>
double BasicTrainer<Model>::epoch() const {
  return static_cast<double>(sampler_.position().epoch) +
         static_cast<double>(sampler_.position().next) / static_cast<double>(sampler_.size());
}

template <class Model>
void BasicTrainer<Model>::reserve() {
  batch_.reserve(extents_.max_tokens, extents_.max_examples);
  model_.reserve(ctx_, extents_.max_tokens, extents_.max_examples, extents_.max_rows);
}

template <class Model>
std::uint64_t BasicTrainer<Model>::dropout_key(std::uint64_t pass) const {
  return stream_key(stream_key(options_.seed, detail::dropout_stream_number), pass);
}

template <class Model>
index_t BasicTrainer<Model>::dense_parameters() const {
  index_t sum = 0;
  for (const auto& segment : dense_->segments())
    sum += segment.count;
  return sum + mlp_->dense_parameters();
}

template <class Model>
index_t BasicTrainer<Model>::sparse_parameters() const {
  return mlp_->sparse_parameters();
}

template <class Model>
index_t BasicTrainer<Model>::entries_a_step() const {
  return mlp_->entries_a_step();
}

template <class Model>
std::uint64_t BasicTrainer<Model>::state_hash() const {
  Hash hash;
  detail::add_matrix<Backend>(ctx_, hash, std::as_const(model_.parameters()).weights());
  detail::add_adam<T, Backend>(ctx_, hash, *dense_);
  mlp_->add_state(ctx_, hash);
  hash.add_value(sampler_.position().epoch);
  hash.add_value(sampler_.position().next);
  hash.add_value(pass_);
  if (LossScale::needed<T>) {
    hash.add_value(loss_scale_.scale);
    hash.add_value(loss_scale_.whole_steps);
  }
  hash.add_value(report_.steps_done);
  return hash.value();
}

template <class Model>
MemoryParts BasicTrainer<Model>::memory_now() const {
  MemoryParts parts;
  const ModelMemory model = model_.memory();
  parts.program = program_bytes_;
  parts.weights = model.weights + copied_bytes_;
  parts.activations = model.activations + ctx_.scratch().most_used();
  parts.gradients = model.dense_gradients;
  for (const GradientPart& part : parts_)
    parts.gradients += static_cast<index_t>(part.before.capacity() * sizeof(float));
  parts.optimizer = dense_->state_bytes();
  mlp_->add_memory(ctx_, model.mlp_gradients, parts);
  if (phase1_mlp_) parts.optimizer += phase1_mlp_->state_bytes();
  return parts;
}

template <class Model>
bool BasicTrainer<Model>::gradients_are_whole() {
  if constexpr (LossScale::needed<T>) {
    bool finite = true;
    try {
      std::vector<MatrixView<const float>> all{model_.parameters().gradients()};
      mlp_->finish_together(ctx_);
      for (index_t i = 0; i < static_cast<index_t>(model_.mlp().size()); ++i)
        all.push_back(
            mlp_->gradient(ctx_, i));  // refuses NaN and Inf by itself while gradients are collected
      const std::span<const MatrixView<const float>> arrays(all);
      finite = Backend::template first_nonfinite_batched<float>(ctx_, arrays) < 0;
    } catch (const NonFiniteError&) {
      finite = false;
    }
    if (!finite) {
      loss_scale_.count_overflow();
      ++report_.skipped_steps;
      model_.parameters().zero_gradients(ctx_);
      mlp_->clear(ctx_);
      return false;
    }
    loss_scale_.count_whole_step();
  }
  return true;
}

template <class Model>
void BasicTrainer<Model>::check_last_step(bool waits) {
  try {
    mlp_->check(ctx_, waits);
  } catch (const NonFiniteError& error) {
    throw detail::EarlierStepError(fmt::format("step {}: {}", report_.steps_done, error.what()));
  }
}

template <class Model>
double BasicTrainer<Model>::gradient_scale() {
  const double unscale = 1 / loss_scale_.scale;
  if (options_.clip_norm <= 0) return unscale;
  if constexpr (BatchedBackend<Backend>) {
    // All at once: each sum that the host asks for by itself would wait for the device.
    std::vector<MatrixView<const float>> all;
    for (const auto& segment : dense_->segments())
      all.emplace_back(segment.gradient, 1, segment.count);
    mlp_->finish_together(ctx_);
    for (index_t i = 0; i < static_cast<index_t>(model_.mlp().size()); ++i)
      all.push_back(mlp_->gradient(ctx_, i));
    std::vector<double> norms(all.size());
    const std::span<const MatrixView<const float>> arrays(all);
    Backend::template squared_norm_batched<float>(ctx_, arrays, norms.data());
    const double sum = std::accumulate(norms.begin(), norms.end(), 0.0);
    return unscale * clip_factor(unscale * std::sqrt(sum), options_.clip_norm);
  }
  const double dense = dense_->gradient_norm(ctx_);
  double squares = dense * dense;
  for (index_t i = 0; i < static_cast<index_t>(model_.mlp().size()); ++i)
    squares += Backend::template squared_norm<float>(ctx_, mlp_->gradient(ctx_, i));
  return unscale * clip_factor(unscale * std::sqrt(squares), options_.clip_norm);
}

template <class Model>
bool BasicTrainer<Model>::collect_bases(const TrainHooks& hooks) {
  if (sparse_ == nullptr) return true;
  interrupted_ = hooks.interrupted;
  const auto start = Clock::now();
  const SparseOptions& sparse_options = options_.sparse;
  const bool resets = RunDevice<Backend>::reset_peak();
  bool whole = true;
  // One gradient memory for all: each matrix's gradient is taken as soon as it is there.
  const bool in_turns = sparse_options.needs_gradients() && options_.phase1_takes_turns();
  if (in_turns) sparse_->share_memory(ctx_);
  // Each process then collects the gradients of its own micro-batches; `fit` adds up what they came to.
  const bool sums_apart = in_turns && processes_ != nullptr;
  if (sums_apart) sparse_->sum_collections(*processes_);
  matrices_apart_ = in_turns;
  sparse_->start_collecting(ctx_);
  if (sparse_options.needs_gradients()) {
    reserve();
    const bool fixed = sparse_options.phase1_fixed_matrices;
    std::vector<std::pair<MatrixView<float>, std::vector<float>>> before;
    const auto remember = [&](float* p, index_t n) {
      before.emplace_back(MatrixView<float>(p, 1, n), model_.values(MatrixView<const float>(p, 1, n)));
      copied_bytes_ += n * static_cast<index_t>(sizeof(float));
    };
    const bool read_again = !fixed && hooks.restore_weights;
    if (!sparse_options.keep_phase1 && fixed) {
      for (const auto& segment : dense_->segments())
        remember(segment.weight, segment.count);
    } else if (!sparse_options.keep_phase1 && !read_again) {
      const MatrixView<float> weights = model_.parameters().weights();
      remember(weights.data, weights.size());
    }
    const Sampler::Position position = sampler_.position();
    const std::uint64_t pass = pass_;
    if (!fixed)
      phase1_mlp_ = std::make_unique<DenseMlp<T, Backend>>(ctx_, mlp_targets(), options_.weight_decay);
    double rate = 0;
    const auto use_gradient = [&](index_t number, double scale) {
      if (!sums_apart) (void)sparse_->gradient(ctx_, number);  // complete now, and in the sums
      if (!fixed) phase1_mlp_->step_one(ctx_, number, rate, scale);
      sparse_->end_collecting_step(ctx_, number);
    };
    const detail::MlpGradientScope<Model> scope(
        model_, in_turns ? [&](index_t number) { use_gradient(number, 1); } : std::function<void(index_t)>());
    for (index_t s = 0; s < sparse_options.phase1_steps && whole; ++s) {
      if (hooks.progress) hooks.progress("phase 1", s, sparse_options.phase1_steps);
      rate = options_.learning_rate * rate_.factor(std::min(s, report_.steps_planned - 1));
      report_.phase1.losses.push_back(accumulate().loss);
      if (gradients_are_whole()) {
        // In turns the gradients are gone, and where they would be clipped no step of phase 1 wants them.
        const double scale = in_turns ? 1 / loss_scale_.scale : gradient_scale();
        for (index_t i = 0; i < sparse_->group().size() && !in_turns; ++i)
          use_gradient(i, scale);
        sparse_->end_collecting_step(ctx_);
        dense_->step(ctx_, {.learning_rate = rate, .grad_scale = scale, .clear_gradients = true});
      }
      ++report_.phase1.steps;
      whole = !asked_to_stop(hooks);
    }
    report_.phase1.memory.note(memory_now());
    phase1_mlp_.reset();
    dense_->reset(ctx_);
    for (const auto& [array, values] : before)
      model_.set_values(array, values);
    if (read_again && !sparse_options.keep_phase1) hooks.restore_weights();
    copied_bytes_ = 0;
    sampler_.seek(position);
    pass_ = pass;
  }
  matrices_apart_ = false;
  const auto end_turns = [&] {
    if (!in_turns) return;
    sparse_->end_sharing(ctx_);
    if (sums_apart) sparse_->end_summing();
  };
  if (!whole) {
    sparse_->stop_collecting(ctx_);
    end_turns();
    return false;
  }
  const auto fit = Clock::now();
  ctx_.scratch().forget_most_used();
  sparse_->fit(ctx_);
  end_turns();
  report_.phase1.fit_seconds = detail::seconds_since(fit);
  report_.phase1.seconds = detail::seconds_since(start);
  report_.phase1.memory.note(memory_now());
  report_.phase1.memory.process_peak = RunDevice<Backend>::peak_memory();
  report_.phase1.memory.peak_is_own = resets;
  return true;
}

template <class Model>
void BasicTrainer<Model>::step(const std::function<void()>& look) {
  StepProfile* const profile = profile_of(ctx_);
  if (profile != nullptr) profile->begin_step();
  mlp_->before_step(ctx_, report_.steps_done, report_.steps_planned);
  StepLoss loss;
  double scale = 1;
  bool whole = true;
  const double factor = rate_.factor(report_.steps_done);
  const double rate = options_.learning_rate * factor;
  const double mlp_rate = options_.rate_of_mlp() * factor;
  kept_ = 0;
  try {
    {
      const detail::MlpGradientScope<Model> scope(model_, mlp_->on_gradient(ctx_));
      loss = accumulate();
    }
    if (look) look();
    whole = gradients_are_whole();
    if (whole) {
      scale = gradient_scale();
      kept_ = mlp_->step(ctx_, mlp_rate, scale);
    }
  } catch (const detail::EarlierStepError&) {
    throw;
  } catch (const NonFiniteError& error) {
    throw NonFiniteError(fmt::format("step {}: {}", report_.steps_done + 1, error.what()));
  }
  if (whole) {
    if constexpr (detail::is_encoder<Model>) {
      if (sparse_ != nullptr && options_.sparse.defects.rotated_bias)
        rotate_bias_gradients<T, Backend>(ctx_, model_);
    }
    dense_->step(ctx_, {.learning_rate = rate, .grad_scale = scale, .clear_gradients = true});
  }
  if (profile != nullptr) profile->end_step(static_cast<double>(loss.tokens));
  report_.memory.note(memory_now());
  const auto start = Clock::now();
  if (mlp_->refresh(ctx_, report_.steps_done + 1, report_.steps_planned)) {
    report_.refresh_seconds += detail::seconds_since(start);
    ++report_.refreshes;
  }

  ++report_.steps_done;
  report_.tokens += loss.tokens;
  loss_since_record_ += loss.loss;
  ++steps_since_record_;
  if (report_.steps_done % options_.log_every == 0 || report_.steps_done == report_.steps_planned) {
    StepRecord record;
    record.step = report_.steps_done;
    record.epoch = epoch();
    record.loss = loss.loss;
    record.mean_loss = loss_since_record_ / static_cast<double>(steps_since_record_);
    record.learning_rate = rate;
    record.sparse_learning_rate = mlp_rate;
    record.examples = loss.examples;
    record.tokens = loss.tokens;
    record.kept = kept_;
    report_.steps.push_back(record);
    loss_since_record_ = 0;
    steps_since_record_ = 0;
  }
}

template <class Model>
void BasicTrainer<Model>::evaluate(const TrainHooks& hooks, bool& stop) {
  check_last_step(true);
  const auto start = Clock::now();
  EvaluateOptions options;
  options.padding = options_.padding;
  // Within the room that training takes anyway.
  options.max_tokens = extents_.max_tokens;
  options.max_sequences = extents_.max_examples;
  options.processes = processes_;
  options.cancelled = [&] { return may_stop() && hooks.interrupted && hooks.interrupted(); };
  if (hooks.progress)
    options.progress = [&](index_t done, index_t total) { hooks.progress("evaluation", done, total); };
  Evaluation result;
  try {
    result = data_.evaluate(ctx_, model_, options);
  } catch (const NonFiniteOutputError&) {
    if (report_.steps_done == 0) throw;  // it was so before training
    throw NonFiniteError(detail::divergence_text(report_.steps_done, options_));
  }
  if (!result.cancelled) {
    EvaluationRecord record;
    record.step = report_.steps_done;
    record.epoch = epoch();
    record.loss = result.loss;
    record.metrics = result.metrics;
    record.best = !report_.best || data_.is_better(record, report_.evaluations[*report_.best]);
    if (record.best && hooks.keep_best) hooks.keep_best();
    record.seconds = detail::seconds_since(start);
    if (record.best) {
      report_.best = report_.evaluations.size();
      since_best_ = 0;
    } else {
      ++since_best_;
    }
    report_.evaluations.push_back(record);
    if (options_.patience > 0 && since_best_ >= options_.patience) {
      report_.stopped_early = true;
      stop = true;
    }
    if (hooks.evaluated) hooks.evaluated(report_.evaluations.back());
  } else {
    // After the last step nothing else would tell: the run would pass for finished, its evaluation missing.
    report_.interrupted = true;
  }
  report_.evaluation_seconds += detail::seconds_since(start);
}

template <class Model>
bool BasicTrainer<Model>::evaluation_due() const {
  const bool last = report_.steps_done == report_.steps_planned;
  const bool every = options_.eval_every > 0 && report_.steps_done % options_.eval_every == 0;
  return last || every || sampler_.at_epoch_end();
}

template <class Model>
void BasicTrainer<Model>::run(const TrainHooks& hooks) {
  const auto interrupted = [&] {
    report_.interrupted = report_.interrupted || (may_stop() && asked_to_stop(hooks));
    return report_.interrupted;
  };
  interrupted_ = hooks.interrupted;
  if (!resumed_ && !collect_bases(hooks)) {
    report_.interrupted = true;
    return;
  }
  reserve();
  RunDevice<Backend>::return_freed_memory();
  ctx_.scratch().forget_most_used();
  // A run that goes on keeps the figures of its first part where they are larger.
  report_.memory.peak_is_own = RunDevice<Backend>::reset_peak() && (!resumed_ || report_.memory.peak_is_own);
  index_t next_checkpoint = report_.steps_done + options_.checkpoint_every;
  auto start = Clock::now();
  // What happens between the two is no training: neither its time nor its memory counts.
  const auto pause = [&] {
    report_.training_seconds += detail::seconds_since(start);
    report_.memory.process_peak = std::max(report_.memory.process_peak, RunDevice<Backend>::peak_memory());
  };
  const auto resume = [&] {
    if (report_.memory.peak_is_own) RunDevice<Backend>::reset_peak();
    start = Clock::now();
  };
  bool stop = options_.patience > 0 && since_best_ >= options_.patience;
  if (!resumed_ && options_.evaluates_first && !interrupted()) {
    pause();
    evaluate(hooks, stop);
    resume();
  }
  // The run may have ended between a step and its evaluation.
  const bool evaluated =
      !report_.evaluations.empty() && report_.evaluations.back().step == report_.steps_done;
  if (resumed_ && report_.steps_done > 0 && !evaluated && evaluation_due()) {
    pause();
    evaluate(hooks, stop);
    resume();
  }
  while (!stop && report_.steps_done < report_.steps_planned && !interrupted()) {
    step();
    if (!report_.steps.empty() && report_.steps.back().step == report_.steps_done)
      report_.steps.back().seconds = report_.training_seconds + detail::seconds_since(start);
    if (hooks.progress) hooks.progress("training", report_.steps_done, report_.steps_planned);
    if (!interrupted() && evaluation_due()) {
      pause();
      evaluate(hooks, stop);
      resume();
    }
    if (options_.checkpoint_every > 0 && report_.steps_done >= next_checkpoint && may_stop() &&
        hooks.checkpoint) {
      next_checkpoint = report_.steps_done + options_.checkpoint_every;
      pause();
      require_same_state();
      hooks.checkpoint();
      resume();
    }
  }
  check_last_step(true);
  pause();
  if (may_stop()) require_same_state();
}

}  // namespace sparsegrad::finetune
