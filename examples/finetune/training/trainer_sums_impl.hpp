// Gradients of a step, over its micro-batches and the processes that share them. Definitions of BasicTrainer, for the files
// that instantiate it.
#pragma once

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "training/process_agreement.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune {

template <class Model>
typename BasicTrainer<Model>::StepLoss BasicTrainer<Model>::accumulate() {
  const std::span<const index_t> all = sampler_.take(examples_a_step());
  const auto rows_of = [&](index_t i) { return data_.rows(i); };
  const std::vector<std::size_t> counts = micro_batches(options_, all, rows_of);
  const auto weight_of = [&](std::span<const index_t> examples) {
    double sum = 0;
    for (const index_t i : examples)
      sum += static_cast<double>(data_.weight(i));
    return sum;
  };
  const double total = weight_of(all);
  const auto ranks = static_cast<std::size_t>(options_.processes);
  const std::size_t rank = processes_ == nullptr ? 0 : static_cast<std::size_t>(processes_->rank());
  std::vector<double> losses(counts.size());
  std::size_t first = 0;
  for (std::size_t k = 0; k < counts.size(); ++k) {
    const auto examples = all.subspan(first, counts[k]);
    first += examples.size();
    // The model's loss is a mean over its own batch: weighted, the step's is one over all examples.
    const double share = weight_of(examples) / total;
    if (k % ranks == rank) losses[k] = share * add_micro_batch(examples, pass_ + k, share);
    const bool last = k + 1 == counts.size();
    if (options_.adds_in_order() && (last || k % ranks == ranks - 1)) add_in_order(k < ranks, last);
  }
  pass_ += counts.size();
  if (processes_ != nullptr) exchange(losses);
  StepLoss sum;
  for (const double loss : losses)
    sum.loss += loss;
  for (const index_t i : all)
    sum.tokens += data_.rows(i);
  sum.examples = static_cast<index_t>(all.size());
  return sum;
}

template <class Model>
double BasicTrainer<Model>::add_micro_batch(std::span<const index_t> examples, std::uint64_t number,
                                            double share) {
  batch_.clear();
  for (const index_t i : examples)
    data_.add_to(batch_, i);
  const auto forward = model_.forward(ctx_, batch_, {.training = true, .dropout_key = dropout_key(number)});
  check_last_step(false);  // the loss has waited for it
  // Among several processes `exchange` tells all of them.
  if (processes_ == nullptr && !sparsegrad::is_finite(forward.loss)) {
    throw NonFiniteError(fmt::format(
        "the loss is {}, expected a finite number; the learning rate may be too large", forward.loss));
  }
  model_.backward(ctx_, batch_, share * loss_scale_.scale);
  return forward.loss;
}

template <class Model>
std::vector<MatrixView<float>> BasicTrainer<Model>::gradients() {
  std::vector<MatrixView<float>> arrays;
  if (const MatrixView<float> dense = model_.parameters().gradients(); !dense.empty())
    arrays.push_back(dense);
  if (matrices_apart_) return arrays;
  for (auto& layer : model_.mlp())
    arrays.push_back(mlp_->collecting() ? layer.gradient().weight_gradient(ctx_) : layer.core(ctx_));
  return arrays;
}

template <class Model>
bool BasicTrainer<Model>::are_finite(const std::vector<MatrixView<float>>& arrays) {
  return std::all_of(arrays.begin(), arrays.end(), [&](MatrixView<const float> array) {
    return Backend::template first_nonfinite<float>(ctx_, array) < 0;
  });
}

template <class Model>
void BasicTrainer<Model>::add_in_order(bool first, bool last) {
  if constexpr (!ThrustBackend<Backend>) {
    const std::vector<MatrixView<float>> arrays = gradients();
    if (processes_ != nullptr) finite_ = finite_ && are_finite(arrays);
    ordered_sums_.resize(arrays.size());
    for (std::size_t a = 0; a < arrays.size(); ++a) {
      float* const values = arrays[a].data;
      const auto count = static_cast<std::size_t>(arrays[a].size());
      // ((sum + g0) + g1) + ...: the sum so far goes in with rank 0's part. Adding 0 makes a 0 of each -0, as any sum does.
      if (processes_ == nullptr || processes_->rank() == 0) {
        for (std::size_t i = 0; i < count; ++i)
          values[i] = (first ? 0.0F : ordered_sums_[a][i]) + values[i];
      }
      if (last) continue;
      if (processes_ != nullptr) sum_over_processes({&arrays[a], 1}, SumOrder::rank);
      if (ordered_sums_[a].size() != count) ordered_sums_[a] = {};
      ordered_sums_[a].assign(values, values + count);
    }
    if (last) {
      if (processes_ != nullptr) sum_over_processes(arrays, SumOrder::rank);
      return;
    }
    model_.parameters().zero_gradients(ctx_);
    for (auto& layer : model_.mlp())
      layer.clear();
  } else {
    (void)first;
    (void)last;
  }
}

template <class Model>
void BasicTrainer<Model>::sum_over_processes(std::span<const MatrixView<float>> arrays, SumOrder order) {
  // In pieces, a few of which are on their way at a time: the communicator copies what is.
  constexpr index_t piece = index_t{1} << 20;
  std::deque<Communicator::Ticket> sums;
  for (const MatrixView<float>& array : arrays) {
    for (index_t at = 0; at < array.size(); at += piece) {
      const auto count = static_cast<std::size_t>(std::min(piece, array.size() - at));
      sums.push_back(
          processes_->start_sum(std::span(array.data + at, count), order, "the gradients of a step"));
      if (sums.size() < 4) continue;
      processes_->wait(sums.front());
      sums.pop_front();
    }
  }
  for (const Communicator::Ticket sum : sums)
    processes_->wait(sum);
}

template <class Model>
void BasicTrainer<Model>::exchange(std::vector<double>& losses) {
  if constexpr (!ThrustBackend<Backend>) {
    const std::vector<MatrixView<float>> arrays = gradients();
    const auto ranks = static_cast<std::size_t>(processes_->size());
    const auto rank = static_cast<std::size_t>(processes_->rank());
    // One sum for all that is small: losses, who holds NaN or Inf, whether any process was interrupted.
    std::vector<double> small(losses);
    small.resize(losses.size() + ranks + 1);
    if (!options_.adds_in_order()) finite_ = are_finite(arrays);  // else it was asked before the sums
    small[losses.size() + rank] = std::exchange(finite_, true) ? 0 : 1;
    small.back() = interrupted_ && interrupted_() ? 1 : 0;
    processes_->sum(std::span(small), SumOrder::any, "the losses of a step");
    all_stop_ = all_stop_ || small.back() > 0;
    std::copy_n(small.begin(), losses.size(), losses.begin());
    for (std::size_t k = 0; k < losses.size(); ++k) {
      if (sparsegrad::is_finite(losses[k])) continue;
      throw NonFiniteError(fmt::format(
          "the loss of rank {} is {}, expected a finite number; the learning rate may be too large",
          k % ranks, losses[k]));
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      if (small[losses.size() + r] == 0) continue;
      throw NonFiniteError(
          fmt::format("the gradients of rank {} hold NaN or Inf, expected finite numbers; the learning rate "
                      "may be too large",
                      r));
    }
    if (options_.adds_in_order()) return;
    sum_over_processes(arrays, SumOrder::any);
  } else {
    (void)losses;
  }
}

template <class Model>
bool BasicTrainer<Model>::asked_to_stop(const TrainHooks& hooks) const {
  if (processes_ != nullptr) return all_stop_;
  return hooks.interrupted && hooks.interrupted();
}

template <class Model>
void BasicTrainer<Model>::require_same_state() {
  if (processes_ == nullptr) return;
  require_same_on_all(*processes_, "the options and data", fingerprint(),
                      "start all with the same options, on the same files");
  require_same_on_all(
      *processes_, "the state",
      nlohmann::json{
          {"state", {{"step", report_.steps_done}, {"hash", fmt::format("{:016x}", checkpoint_hash())}}}},
      "they need the same model's files, the same program and threads, and processors of one kind");
}

}  // namespace sparsegrad::finetune
