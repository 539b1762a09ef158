// What a step does to the MLP matrices of a model.
#pragma once

#include <functional>
#include <string>

#include <nlohmann/json_fwd.hpp>
#include <sparsegrad/io/safetensors.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include "models/mlp/accumulated_update.hpp"
#include "models/parameters/parameter_set.hpp"
#include "training/memory/memory_account.hpp"
#include "training/state_arrays.hpp"

namespace sparsegrad::finetune {

/// A trained MLP matrix as its optimizer sees it.
template <class T, class Backend>
struct MlpTarget {
  SparseGradLinear<T, Backend>* layer;  ///< its gradient
  const Parameter<T>* parameter;
  std::string kind;  ///< matrices of a kind may share a basis
  /// Where its updates go in place of the parameter; null: to the parameter.
  AccumulatedUpdate<compute_t<T>, Backend>* update = nullptr;
};

/// The optimizer of all MLP matrices. Each way to train them is a class; a trainer chooses once (make_mlp_optimizer). This
/// one serves matrices that no step changes, and those whose adapters the dense optimizer trains.
template <class T, class Backend>
class MlpOptimizer {
 public:
  using Context = typename Backend::Context;

  MlpOptimizer() = default;
  MlpOptimizer(const MlpOptimizer&) = delete;
  MlpOptimizer& operator=(const MlpOptimizer&) = delete;
  virtual ~MlpOptimizer() = default;

  /// The complete gradient of matrix `number` in this step, in its basis.
  virtual MatrixView<const float> gradient(Context&, index_t number) {
    (void)number;
    return {};
  }
  /// Readies all of them, on a GPU by fewer and larger products.
  virtual void finish_together(Context&) {}
  /// Forgets the gradients of this step.
  virtual void clear(Context&) {}

  /// What backward is to call as soon as a matrix's gradient of the step is complete; empty: nothing.
  virtual std::function<void(index_t number)> on_gradient(Context&) { return {}; }
  /// Before the gradients of step number `done` (from 0) of `planned`.
  virtual void before_step(Context&, index_t done, index_t planned) {
    (void)done;
    (void)planned;
  }
  /// Takes the step from the matrices' gradients times `scale` and forgets them. Returns the entries of sparse gradients.
  /// Throws NonFiniteError before anything has changed, or, on a GPU, where the step does not wait to learn of NaN, from
  /// `check`: that step and those after it have changed nothing of the matrices.
  virtual index_t step(Context&, double rate, double scale) {
    (void)rate;
    (void)scale;
    return 0;
  }
  /// Throws NonFiniteError for a step that met NaN or Inf, where the host knows of it by now; with `waits`, of all steps.
  virtual void check(Context&, bool waits) { (void)waits; }
  /// After step number `done` (from 1): fits bases anew where that is due, and says so.
  virtual bool refresh(Context&, index_t done, index_t planned) {
    (void)done;
    (void)planned;
    return false;
  }
  /// Whether gradients are being collected for a refresh; no state can be saved meanwhile.
  virtual bool collecting() const { return false; }

  /// Numbers that are trained densely and sparsely, and those of the latter that a step changes.
  virtual index_t dense_parameters() const { return 0; }
  virtual index_t sparse_parameters() const { return 0; }
  virtual index_t entries_a_step() const { return 0; }

  /// Adds gradients, optimizer and bases; `layers` is what the gradients' layers own.
  virtual void add_memory(Context&, index_t layers, MemoryParts& parts) const { parts.gradients += layers; }
  virtual void add_state(Context&, Hash&) {}
  /// Adds the bases, which a step does not change, one number after the other.
  virtual std::uint64_t hash_of_bases(Context&, std::uint64_t hash) { return hash; }

  /// Arrays go to the file, numbers into `state`.
  virtual void save(Context&, io::SafetensorsWriter&, nlohmann::json& state) { (void)state; }
  /// Throws IoError unless the file holds this state's arrays, bit by bit.
  virtual void check_written(Context&, const io::SafetensorsFile&) {}
  virtual void restore(Context&, const io::SafetensorsFile&, const nlohmann::json& state) { (void)state; }
};

}  // namespace sparsegrad::finetune
