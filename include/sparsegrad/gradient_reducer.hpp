// GradientReducer: what a group asks of the processes that train together.
#pragma once

#include <functional>
#include <span>
#include <utility>

#include "core/backend.hpp"
#include "core/view.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Adds up a finished gradient over processes, in place.
template <class C, Backend B>
using Reduce = std::function<void(typename B::Context&, MatrixView<C>)>;

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
