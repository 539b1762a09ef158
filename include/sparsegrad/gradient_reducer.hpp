// GradientReducer: what a group asks of the processes that train together.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/view.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Adds up a finished gradient over processes, in place.
template <class C, Backend B>
using Reduce = std::function<void(typename B::Context&, MatrixView<C>)>;

/// What a reducer remembers of one process's gradients, in host memory: what files hold
/// (io/reducer_file.hpp).
template <class C>
struct ReducerState {
  /// The process.
  int rank = 0;
  /// Number of processes; 0 from a reducer that remembers nothing.
  int ranks = 0;
  /// By layer: what this process has not sent of its gradients, finite; empty where that is 0.
  std::vector<std::vector<C>> residuals;
};

/// Sums the gradients of a group over processes, several at a time (SparseGradGroup::use_reduce).
///
/// A group starts one sum a layer and step, in the same order in all processes, then waits for each.
/// So a class of one's own may send several together, and while the backward pass goes on:
/// BucketReducer (extras/bucket_reduce.hpp) does over MPI.
template <class C, Backend B>
class GradientReducer {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  virtual ~GradientReducer() = default;

  /// Begins the sum of g, contiguous, which stays where it is and as it is until `wait`: dW [out, in]
  /// while bases are collected, the values [1, k] of entries that are given beforehand, else the core
  /// [r, c].
  virtual void start(Context& ctx, index_t layer, MatrixView<C> g) = 0;
  /// Makes g, which was started, the sum: the same bits in all processes.
  virtual void wait(Context& ctx, index_t layer, MatrixView<C> g) = 0;
  /// What was started and not awaited will not be: the group has forgotten the gradients.
  virtual void abandon() noexcept {}

  /// The layer has another basis, or number: what is known of its gradients has no meaning any more.
  virtual void forget(index_t /*layer*/) {}

  /// What this process needs, beside the group's state, to go on as if it had not stopped: of each
  /// process another. Throws StateError while a sum is on its way.
  virtual ReducerState<C> state(Context&) const { return {}; }
  /// Takes over what this process has saved, after SparseGradGroup::restore, which forgets it. Throws
  /// ValueError for residuals that this reducer or process cannot have, StateError while a sum is on
  /// its way; nothing has changed then.
  virtual void restore(Context&, const ReducerState<C>& state) {
    for (const std::vector<C>& residual : state.residuals)
      if (!residual.empty()) throw ValueError("the saved state has residuals, and this reducer keeps none");
  }

  /// From which processes NaN or Inf came into the layer's last sum: the end of a message; empty: unknown.
  /// A group calls it in all processes when it refuses the sum, so that it may ask them.
  virtual std::string nonfinite_ranks(Context&, index_t /*layer*/) { return {}; }

  /// Whether each process collects the gradients of its own for the bases: `sum` then adds up their
  /// Gram sums once, at the end of the collection, in place of every dW.
  virtual bool sums_collections() const { return false; }
  /// Makes `sums` [n, s], contiguous, the sum over processes, at once. `lower`: its lower triangle
  /// alone has a meaning.
  virtual void sum(Context&, MatrixView<double> /*sums*/, bool /*lower*/) {}

  /// Whether `agree` is to be called.
  virtual bool checks() const { return false; }
  /// Throws CommunicationError unless all processes have selected the same entries, the members'
  /// sparse gradients of this step; nothing has changed yet.
  virtual void agree(Context&, std::span<const SparseGradient<C, B>* const>) {}
};

namespace detail {

/// Returns f(), which looks at a sum over processes. A NonFiniteError that it throws then says whose
/// gradients they were, where the reducer knows. `reducer`: null where nothing was summed.
template <class Context, class Reducer, class F>
decltype(auto) blaming(Context& ctx, const Reducer& reducer, index_t layer, F&& f) {
  try {
    return f();
  } catch (const NonFiniteError& error) {
    if (reducer == nullptr) throw;
    std::string whose;
    try {
      whose = reducer->nonfinite_ranks(ctx, layer);
    } catch (const CommunicationError& lost) {  // what was found counts, not that a rank does not answer
      whose = std::string("of which rank is unknown: ") + lost.what();
    }
    if (whose.empty()) throw;
    throw NonFiniteError(error.what() + ("; " + whose));
  }
}

/// A function of the caller's, which waits by itself.
template <class C, Backend B>
class FunctionReducer final : public GradientReducer<C, B> {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  explicit FunctionReducer(Reduce<C, B> reduce) : reduce_(std::move(reduce)) {}
  void start(Context&, index_t, MatrixView<C>) override {}
  void wait(Context& ctx, index_t, MatrixView<C> g) override { reduce_(ctx, g); }

 private:
  Reduce<C, B> reduce_;
};

}  // namespace detail

}  // namespace sparsegrad::SPARSEGRAD_ABI
