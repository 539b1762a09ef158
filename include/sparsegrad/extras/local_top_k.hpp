// LocalTopKReducer: every rank sends the largest entries of its own gradient, for slow networks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../core/buffer.hpp"
#include "../core/float_bits.hpp"
#include "../default_backend.hpp"
#include "../gradient_reducer.hpp"
#include "bucket_reduce.hpp"
#include "communicator.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Options of a LocalTopKReducer.
struct LocalTopKOptions {
  /// Entries of each layer that a rank sends in a step. Positive.
  index_t entries = 0;
  /// Compares a hash of the selected entries over ranks, as ReduceOptions::check.
  bool check = false;
};

/// Sums over ranks of the entries that each rank holds for the largest, in place of whole cores; what
/// a rank does not send it remembers. Not the exact sum, but much less to send:
///
///     P_r = G_r + E_r       S_r = top_k(|P_r|)       E_r <- P_r - S_r       G = S_0 + S_1 + ...
///
/// Each rank sends k positions and k values to all others. The group then keeps the largest entries of
/// the sum: let it keep N k of them (GroupOptions::entries), or what was sent is dropped in part.
///
///     group.use_reduce(std::make_shared<LocalTopKReducer<float>>(comm, LocalTopKOptions{.entries = 2000}));
///
/// Bases are fitted to Gram sums, which are exact (Collected::sums). The residuals E_r are 0 in a new
/// basis. They differ by rank and are no part of a group's state: each rank saves its own (`state`,
/// io/reducer_file.hpp), or a resumed run begins with 0. A gradient with NaN or Inf is sent as it is, and
/// E_r stays, on all ranks; so it does where a sum is given up. What other layers have sent in a step
/// that throws has left theirs.
///
/// Sources: Aji, Heafield, "Sparse communication for distributed gradient descent", EMNLP 2017; Lin,
/// Han, Mao, Wang, Dally, "Deep gradient compression", ICLR 2018; error feedback as in ErrorFeedback.
/// Memory: one core a layer.
template <class C, Backend B = DefaultBackend>
class LocalTopKReducer final : public GradientReducer<C, B> {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// The communicator must live as long. Throws ValueError unless entries > 0.
  LocalTopKReducer(Communicator& comm, LocalTopKOptions options)
      : options_(options), exact_(comm, {.collected = Collected::sums, .check = options.check}) {
    if (options.entries <= 0)
      throw ValueError("entries is " + std::to_string(options.entries) + ", expected > 0");
  }
  LocalTopKReducer(const LocalTopKReducer&) = delete;
  LocalTopKReducer& operator=(const LocalTopKReducer&) = delete;
  ~LocalTopKReducer() override { abandon(); }

  /// Throws ValueError for 2^31 entries or more, and where a restored residual has another number of
  /// entries than its layer's first gradient.
  void start(Context& ctx, index_t layer, MatrixView<C> g) override {
    if (g.size() > (std::numeric_limits<stored_index_t>::max)()) {
      throw ValueError("a gradient of " + std::to_string(g.size()) +
                       " entries, expected less than 2^31: positions are of 32 bits");
    }
    Layer& l = at(layer);
    const index_t k = (std::min)(options_.entries, g.size());
    if (l.residual.size() != g.size()) {
      if (l.restored) {  // it would be lost without a word
        throw ValueError("the restored residual has " + std::to_string(l.residual.size()) +
                         " entries, its gradient " + std::to_string(g.size()) +
                         ": it is of another basis or selection");
      }
      l.residual.resize(ctx, g.size());
    }
    l.restored = false;
    const MatrixView<C> flat(g.data, 1, g.size());
    B::template add<C>(ctx, C(1), l.residual.matrix(1, g.size()), flat);
    auto frame = ctx.frame();
    C* values = frame.template take<C>(k);
    stored_index_t* positions = frame.template take<stored_index_t>(k);
    B::template top_k<C>(ctx, g.data, g.size(), k, positions, values);
    const auto count = static_cast<std::size_t>(k);
    l.mine.resize(count * entry);
    std::vector<C> host(count);
    std::vector<stored_index_t> places(count);
    B::template download<C>(ctx, values, host.data(), k);
    B::template download<stored_index_t>(ctx, positions, places.data(), k);
    if (count > 0) {
      std::memcpy(l.mine.data(), host.data(), count * sizeof(C));
      std::memcpy(l.mine.data() + count * sizeof(C), places.data(), count * sizeof(stored_index_t));
    }
    l.all.resize(l.mine.size() * static_cast<std::size_t>(communicator().size()));
    l.ticket = communicator().start_gather(l.mine, l.all, "entries of gradient " + std::to_string(layer));
    l.sent = true;
  }
  void wait(Context& ctx, index_t layer, MatrixView<C> g) override {
    Layer& l = at(layer);
    l.sent = false;
    communicator().wait(l.ticket);
    const auto k = static_cast<index_t>(l.mine.size() / entry);
    const auto count = static_cast<std::size_t>(k);
    auto frame = ctx.frame();
    C* values = frame.template take<C>(k);
    C* sums = frame.template take<C>(k);
    stored_index_t* positions = frame.template take<stored_index_t>(k);
    std::vector<C> host(count);
    std::vector<stored_index_t> places(count);
    const auto upload = [&](const std::byte* entries) {
      std::memcpy(host.data(), entries, count * sizeof(C));
      std::memcpy(places.data(), entries + count * sizeof(C), count * sizeof(stored_index_t));
      B::template upload<C>(ctx, host.data(), values, k);
      B::template upload<stored_index_t>(ctx, places.data(), positions, k);
    };
    // NaN and Inf rank above all finite numbers: where the k largest are finite, all are.
    const auto is_whole = [&](int r) {
      if (count == 0) return true;
      std::memcpy(host.data(), l.all.data() + static_cast<std::size_t>(r) * l.mine.size(), count * sizeof(C));
      return std::all_of(host.begin(), host.end(), [](C value) { return is_finite(value); });
    };
    l.nonfinite.clear();
    for (int r = 0; r < communicator().size(); ++r)
      if (!is_whole(r)) l.nonfinite.push_back(r);
    if (l.nonfinite.empty() && count > 0) {  // else no step is taken with this sum, and nothing has left E_r
      B::template copy<C>(ctx, MatrixView<const C>(g.data, 1, g.size()), l.residual.matrix(1, g.size()));
      upload(l.mine.data());
      B::template zero<C>(ctx, values, k);
      B::template scatter<C>(ctx, values, positions, k, l.residual.data());
    }
    B::template zero<C>(ctx, g.data, g.size());
    for (int r = 0; r < communicator().size() && count > 0; ++r) {
      upload(l.all.data() + static_cast<std::size_t>(r) * l.mine.size());
      B::template gather<C>(ctx, g.data, positions, k, sums);
      B::template add<C>(ctx, C(1), MatrixView<const C>(values, 1, k), MatrixView<C>(sums, 1, k));
      B::template scatter<C>(ctx, sums, positions, k, g.data);
    }
  }
  void abandon() noexcept override {
    for (Layer& l : layers_) {
      try {
        if (std::exchange(l.sent, false)) communicator().wait(l.ticket);
      } catch (...) {  // the communicator is of no use, and says so at its next call
      }
    }
    exact_.abandon();
  }
  std::string nonfinite_ranks(Context&, index_t layer) override {
    return detail::nonfinite_text(at(layer).nonfinite);
  }
  void forget(index_t layer) override {
    at(layer).residual.release();
    at(layer).restored = false;
  }

  /// This rank's residuals. Throws StateError while a sum is on its way.
  ReducerState<C> state(Context& ctx) const override {
    require_settled("state");
    ReducerState<C> state;
    state.rank = communicator().rank();
    state.ranks = communicator().size();
    state.residuals.resize(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Buffer<C, B>& e = layers_[i].residual;
      state.residuals[i].resize(static_cast<std::size_t>(e.size()));
      if (!e.empty()) B::template download<C>(ctx, e.data(), state.residuals[i].data(), e.size());
    }
    return state;
  }
  /// Takes over this rank's residuals, after SparseGradGroup::restore. Throws ValueError for those of
  /// another rank or number of ranks, and for NaN or Inf; StateError while a sum is on its way. Nothing
  /// has changed then.
  void restore(Context& ctx, const ReducerState<C>& state) override {
    require_settled("restore");
    require_own(state);
    std::vector<Layer> layers(state.residuals.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::vector<C>& saved = state.residuals[i];
      if (saved.empty()) continue;
      layers[i].residual.resize(ctx, static_cast<index_t>(saved.size()));
      B::template upload<C>(ctx, saved.data(), layers[i].residual.data(), layers[i].residual.size());
      layers[i].restored = true;
    }
    layers_ = std::move(layers);
  }

  bool sums_collections() const override { return true; }
  void sum(Context& ctx, MatrixView<double> sums, bool lower) override { exact_.sum(ctx, sums, lower); }
  bool checks() const override { return exact_.checks(); }
  void agree(Context& ctx, std::span<const SparseGradient<C, B>* const> selected) override {
    exact_.agree(ctx, selected);
  }

  /// The communicator.
  Communicator& communicator() const { return exact_.communicator(); }
  /// What this rank has not sent of a layer's gradients [1, size]; empty where it is 0.
  MatrixView<const C> residual(index_t layer) const {
    if (static_cast<std::size_t>(layer) >= layers_.size()) return {};
    const Buffer<C, B>& e = layers_[static_cast<std::size_t>(layer)].residual;
    return e.matrix(e.empty() ? 0 : 1, e.size());
  }

 private:
  static constexpr std::size_t entry = sizeof(C) + sizeof(stored_index_t);

  struct Layer {
    Buffer<C, B> residual;
    std::vector<std::byte> mine;  ///< values, then positions
    std::vector<std::byte> all;   ///< those of every rank
    Communicator::Ticket ticket = 0;
    std::vector<int> nonfinite;  ///< ranks that have sent NaN or Inf
    bool sent = false;
    bool restored = false;  ///< and no gradient has come since
  };
  void require_settled(const char* call) const {
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].sent)
        throw StateError(std::string(call) + ": the entries of gradient " + std::to_string(i) +
                         " are on their way; call it between steps");
  }
  /// Throws ValueError unless this rank of as many ranks has saved the state, and it is finite.
  void require_own(const ReducerState<C>& state) const {
    const auto text = [](int rank, int ranks) {
      return "rank " + std::to_string(rank) + " of " + std::to_string(ranks);
    };
    const int rank = communicator().rank();
    const int ranks = communicator().size();
    if (state.ranks == 0)
      throw ValueError("the saved state is that of a reducer without residuals; without it they begin at 0");
    if (state.rank != rank || state.ranks != ranks) {
      throw ValueError("the saved residuals are those of " + text(state.rank, state.ranks) + ", expected " +
                       text(rank, ranks) + "; without them they begin at 0");
    }
    for (std::size_t i = 0; i < state.residuals.size(); ++i)
      for (std::size_t e = 0; e < state.residuals[i].size(); ++e)
        if (!is_finite(state.residuals[i][e]))
          throw ValueError("the saved residual of gradient " + std::to_string(i) +
                           " holds NaN or Inf at entry " + std::to_string(e));
  }
  Layer& at(index_t layer) {
    if (layers_.size() <= static_cast<std::size_t>(layer))
      layers_.resize(static_cast<std::size_t>(layer) + 1);
    return layers_[static_cast<std::size_t>(layer)];
  }

  LocalTopKOptions options_;
  BucketReducer<C, B> exact_;  ///< for what is summed exactly
  std::vector<Layer> layers_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
