// BucketReducer: a group's gradients summed over the ranks of a communicator, several in one message.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../default_backend.hpp"
#include "../gradient_reducer.hpp"
#include "communicator.hpp"
#include "gradient_buckets.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What is summed over ranks while bases are collected.
enum class Collected {
  gradients,  ///< dW in every step: the bases are those of one process with all of the data
  /// Every rank collects the gradients of its own tokens, each one more gradient, and their Gram sums
  /// are summed once, at the end: less to send, and bases of N times as many gradients of 1/N of a
  /// batch. NaN in one rank's gradient is that rank's alone to meet.
  sums,
};

/// Options of a BucketReducer.
struct ReduceOptions {
  BucketOptions buckets = {};                  ///< size, wire type, order of the sums
  Collected collected = Collected::gradients;  ///< while bases are collected
  /// Compares a hash of the selected entries over ranks in every step, before anything changes.
  bool check = false;
};

/// FNV-1a, continued from `hash`: for comparing what ranks have.
inline std::uint64_t hash_bytes(std::span<const std::byte> bytes,
                                std::uint64_t hash = 14695981039346656037U) {
  for (const std::byte b : bytes)
    hash = (hash ^ static_cast<std::uint64_t>(b)) * 1099511628211U;
  return hash;
}

/// A hash of the entries that are kept: how many, their positions and values.
template <class C, Backend B>
std::uint64_t hash_entries(typename B::Context& ctx, const SparseGradient<C, B>& s,
                           std::uint64_t hash = 14695981039346656037U) {
  const index_t n = s.count();
  hash = hash_bytes(std::as_bytes(std::span(&n, 1)), hash);
  if (n == 0) return hash;
  std::vector<C> values(static_cast<std::size_t>(n));
  B::template download<C>(ctx, s.values(), values.data(), n);
  hash = hash_bytes(std::as_bytes(std::span(values)), hash);
  if (s.dense()) return hash;
  std::vector<stored_index_t> positions(static_cast<std::size_t>(n));
  B::template download<stored_index_t>(ctx, s.indices(), positions.data(), n);
  return hash_bytes(std::as_bytes(std::span(positions)), hash);
}

namespace detail {

/// Says of which ranks the parts of a sum that holds NaN or Inf are such: for messages.
inline std::string nonfinite_text(const std::vector<int>& ranks) {
  if (ranks.empty()) return "every rank's own part is finite, and their sum is not";
  return "it comes from " + Communicator::ranks_text(ranks);
}

}  // namespace detail

/// Sums a group's gradients over the ranks of a communicator, fused into buckets that leave as they
/// fill.
///
///     MpiCommunicator comm(MPI_COMM_WORLD);
///     group.use_reduce(std::make_shared<BucketReducer<float>>(comm));
///     // after layer i's last backward, where the pass goes on with other layers:
///     group.start_reduce(ctx, i);
///
/// Sums run through host memory, whatever the backend. Scale the loss by the tokens of all ranks, or
/// the step by grad_scale: nothing is divided here.
template <class C, Backend B = DefaultBackend>
class BucketReducer final : public GradientReducer<C, B> {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// The communicator must live as long. Throws ValueError for options out of range.
  explicit BucketReducer(Communicator& comm, ReduceOptions options = {})
      : options_(options), buckets_(comm, options.buckets) {}

  /// The communicator.
  Communicator& communicator() const { return buckets_.communicator(); }

  void start(Context& ctx, index_t layer, MatrixView<C> g) override {
    if (sums_.size() <= static_cast<std::size_t>(layer)) sums_.resize(static_cast<std::size_t>(layer) + 1);
    Sum& sum = sums_[static_cast<std::size_t>(layer)];
    sum.finite = B::template first_nonfinite<C>(ctx, MatrixView<const C>(g)) < 0;
    sum.slot = buckets_.start(static_cast<std::size_t>(g.size()),
                              [&](C* to) { B::template download<C>(ctx, g.data, to, g.size()); });
  }
  void wait(Context& ctx, index_t layer, MatrixView<C> g) override {
    buckets_.wait(known(layer).slot,
                  [&](const C* from) { B::template upload<C>(ctx, from, g.data, g.size()); });
  }
  void abandon() noexcept override { buckets_.abandon(); }

  std::string nonfinite_ranks(Context&, index_t layer) override {
    const auto mine = static_cast<std::byte>(known(layer).finite ? 0 : 1);
    std::vector<std::byte> all(static_cast<std::size_t>(communicator().size()));
    communicator().wait(
        communicator().start_gather(std::span(&mine, 1), all, "whose gradient holds NaN or Inf"));
    std::vector<int> ranks;
    for (std::size_t r = 0; r < all.size(); ++r)
      if (all[r] != std::byte{}) ranks.push_back(static_cast<int>(r));
    return detail::nonfinite_text(ranks);
  }

  bool sums_collections() const override { return options_.collected == Collected::sums; }
  void sum(Context& ctx, MatrixView<double> sums, bool lower) override {
    std::vector<double> host(static_cast<std::size_t>(sums.size()));
    B::template download<double>(ctx, sums.data, host.data(), sums.size());
    const auto n = static_cast<std::size_t>(sums.rows);
    std::size_t count = host.size();
    if (lower) {  // row i is n * i, and packed i (i + 1) / 2
      count = 0;
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j <= i; ++j)
          host[count++] = host[i * n + j];
    }
    constexpr std::size_t most = std::size_t{1} << 24;
    for (std::size_t first = 0; first < count; first += most) {
      communicator().sum(std::span(host).subspan(first, (std::min)(most, count - first)),
                         options_.buckets.order, "Gram sums");
    }
    if (lower) {
      for (std::size_t i = n; i-- > 0;) {
        for (std::size_t j = i + 1; j-- > 0;)
          host[i * n + j] = host[--count];
        std::fill(host.begin() + static_cast<std::ptrdiff_t>(i * n + i + 1),
                  host.begin() + static_cast<std::ptrdiff_t>(i * n + n), 0.0);
      }
    }
    B::template upload<double>(ctx, host.data(), sums.data, sums.size());
  }

  bool checks() const override { return options_.check; }
  void agree(Context& ctx, std::span<const SparseGradient<C, B>* const> selected) override {
    std::uint64_t hash = hash_bytes({});
    for (const SparseGradient<C, B>* s : selected)
      hash = hash_entries<C, B>(ctx, *s, hash);
    communicator().require_equal(hash, "entries selected in this step");
  }

 private:
  struct Sum {
    typename GradientBuckets<C>::Slot slot;
    bool finite = true;  ///< this rank's part of it
  };
  /// Of a layer whose sum was never started: one that no wait takes.
  Sum known(index_t layer) const {
    return static_cast<std::size_t>(layer) < sums_.size() ? sums_[static_cast<std::size_t>(layer)] : Sum();
  }

  ReduceOptions options_;
  GradientBuckets<C> buckets_;
  std::vector<Sum> sums_;  ///< by layer
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
