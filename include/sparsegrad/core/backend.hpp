// The contract between the algorithms and the machine: what a backend supplies.
#pragma once

#include <concepts>
#include <span>

#include "backend_primitives.hpp"
#include "backend_types.hpp"
#include "config.hpp"
#include "error.hpp"
#include "low_precision.hpp"
#include "step_guard.hpp"
#include "view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace contract {

/// What every type that is stored needs.
template <class B, class T>
concept StoresType = HasZero<B, T> && HasUpload<B, T> && HasDownload<B, T> && HasCopy<B, T>;

/// What layers of T = float or double need.
template <class B, class T>
concept ComputesType = StoresType<B, T> && HasScratchBound<B, T> && HasGemm<B, T> && HasGemmBatched<B, T> &&
    HasGram<B, T> && HasTranspose<B, T> && HasScale<B, T> && HasAdd<B, T> && HasAddWide<B, T> &&
    HasAddToRows<B, T> && HasColumnSums<B, T> && HasSquaredNorm<B, T> && HasFirstNonfinite<B, T> &&
    HasHadamard<B, T> && HasTopK<B, T> && HasGather<B, T> && HasScatter<B, T> && HasScatterAdd<B, T> &&
    HasSampledProduct<B, T> && HasExpandRows<B, T> && HasGatherRows<B, T> && HasAddColumns<B, T> &&
    HasAdam<B, T> && HasInsertEntries<B, T>;

/// What gradients of S = bfloat16 or float16 need.
template <class B, class S>
concept ConvertsType = StoresType<B, S> && HasWiden<B, S> && HasRoundTo<B, S>;

}  // namespace contract

/// Concept of a backend: a type with no state that names a `Context` (threads or stream, and
/// scratch; of one caller at a time), a `Memory`, and all primitives of namespace contract. Each
/// backend's header ends with `static_assert(Backend<...>)`.
template <class B>
concept Backend = contract::HasName<B> && contract::HasDenseAboveDensity<B> && contract::HasMemory<B> &&
    contract::ComputesType<B, float> && contract::ComputesType<B, double> &&
    contract::StoresType<B, stored_index_t> && contract::HasGather<B, stored_index_t> &&
    contract::ConvertsType<B, bfloat16> && contract::ConvertsType<B, float16> && contract::HasEigh<B> &&
    contract::HasGroupSupport<B> && contract::HasLocateEntries<B>;

namespace contract {

/// S (C) = alpha op(A) op(B) + beta S; A and B in T, alpha and beta in C.
template <class B, class T>
concept HasGemmWide = requires(typename B::Context& ctx, compute_t<T> alpha, MatrixView<const T> a,
                               MatrixView<compute_t<T>> s) {
  B::template gemm_wide<T>(ctx, Op::none, Op::none, alpha, a, a, alpha, s);
};

}  // namespace contract

/// Concept of a backend that also has layers whose parameters are stored in T = bfloat16 or
/// float16. Numbers are T's in memory and float's in between: a sum is rounded to T once, to
/// nearest, when it is written. `gemm` takes alpha and beta in C = float, `column_sums` and
/// `sampled_product` add to sums in C, `add_to_rows` adds numbers in T.
template <class B, class T>
concept LowPrecisionBackend = Backend<B> && contract::HasGemm<B, T> && contract::HasGemmWide<B, T> &&
    contract::HasColumnSums<B, T> && contract::HasAddToRows<B, T> && contract::HasSampledProduct<B, T>;

namespace contract {

/// top_k of every task.
template <class B, class T>
concept HasTopKBatched = requires(typename B::Context& ctx, std::span<const TopKTask<T>> tasks) {
  B::template top_k_batched<T>(ctx, tasks);
};

/// adam of every task, with its own step in place of c.step; d = 0 and nothing else where the guard
/// stops; steps that were skipped do not count.
template <class B, class T>
concept HasAdamBatched = requires(typename B::Context& ctx, AdamCoefficients c,
                                  std::span<const AdamTask<T>> tasks, StepGuard guard) {
  B::template adam_batched<T>(ctx, c, tasks, guard);
};

/// The guard stops where a contiguous matrix holds NaN or a number beyond +-largest, which is
/// finite; `raise`: also as long as the context's StepFlag is raised, which that does.
template <class B, class T>
concept HasGuardStep = requires(typename B::Context& ctx, std::span<const MatrixView<const T>> as, T largest,
                                bool raise, StepGuard guard) {
  B::template guard_step<T>(ctx, as, largest, raise, guard);
  { ctx.step_flag() } -> std::same_as<StepFlag&>;
};

/// A *= alpha for contiguous matrices, unless the guard stops.
template <class B, class T>
concept HasScaleBatched = requires(typename B::Context& ctx, T alpha, std::span<const MatrixView<T>> as,
                                   StepGuard guard) {
  B::template scale_batched<T>(ctx, alpha, as, guard);
};

/// All entries of contiguous matrices 0.
template <class B, class T>
concept HasZeroBatched = requires(typename B::Context& ctx, std::span<const MatrixView<T>> as) {
  B::template zero_batched<T>(ctx, as);
};

/// Number of the first contiguous matrix with NaN or Inf, or -1, on the host.
template <class B, class T>
concept HasFirstNonfiniteBatched = requires(typename B::Context& ctx,
                                            std::span<const MatrixView<const T>> as) {
  { B::template first_nonfinite_batched<T>(ctx, as) } -> std::same_as<index_t>;
};

/// sums[i] = squared_norm of matrix i, on the host.
template <class B, class T>
concept HasSquaredNormBatched = requires(typename B::Context& ctx, std::span<const MatrixView<const T>> as,
                                         double* sums) {
  B::template squared_norm_batched<T>(ctx, as, sums);
};

/// P.row(b) = sum of D(a, b) F.row(a) over the entries of column b (else of row b) that are not 0.
/// `most_expanded`: the most entries in a column; `expansion_cost(ctx)`: what a multiply-add of it
/// costs, in those of a dense product.
template <class B, class T>
concept HasExpandNonzeros = requires(typename B::Context& ctx, MatrixView<const T> d, bool columns,
                                     MatrixView<T> p) {
  B::template expand_nonzeros<T>(ctx, d, columns, d, p);
  { B::expansion_cost(ctx) } -> std::same_as<double>;
  { B::most_expanded } -> std::convertible_to<index_t>;
};

/// Bytes of scratch that any of them takes on q arrays of n elements together.
template <class B, class T>
concept HasBatchScratchBound = requires(typename B::Context& ctx, index_t q, index_t n) {
  { B::template batch_scratch_bound<T>(ctx, q, n) } -> std::same_as<index_t>;
};

template <class B, class T>
concept ComputesBatches = HasTopKBatched<B, T> && HasAdamBatched<B, T> && HasGuardStep<B, T> &&
    HasScaleBatched<B, T> && HasZeroBatched<B, T> && HasFirstNonfiniteBatched<B, T> &&
    HasSquaredNormBatched<B, T> && HasExpandNonzeros<B, T> && HasBatchScratchBound<B, T>;

}  // namespace contract

/// Concept of a backend that does the same small task for many arrays at once, where a launch a
/// task would cost more than the task; SparseGradGroup then takes the steps of all its layers
/// together (batched_step.hpp).
template <class B>
concept BatchedBackend =
    Backend<B> && contract::ComputesBatches<B, float> && contract::ComputesBatches<B, double>;

}  // namespace sparsegrad::SPARSEGRAD_ABI
