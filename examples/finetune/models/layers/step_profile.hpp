// Where the time of training steps goes: by kind of work, beside what each kind needs at least.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/core/backend.hpp>
#include <sparsegrad/core/buffer.hpp>

namespace sparsegrad::finetune {

/// Kinds of work of a training step.
enum class Work {
  forward,          ///< products x W^T
  input_gradient,   ///< products dy W
  weight_gradient,  ///< products dy^T x: dW, or a core gradient
  rotation,         ///< products with a basis that project tokens or gradients
  weight_update,    ///< W += V D U^T with its copies
  attention,        ///< with the bias of queries, keys and values
  rope,             ///< rotations by position, with the bias of queries, keys and values
  norm,             ///< LayerNorm or RMSNorm with residual, dropout and bias
  activation,       ///< GELU with its bias, or SwiGLU
  column_sums,      ///< bias gradients and bias additions that are passes of their own
  embeddings,       ///< both ways
  head,             ///< the head and the loss, with their products
  adamw,            ///< dense AdamW
  selection,        ///< top-k and the search for NaN
  sparse_adam,      ///< SparseAdam's moments
  memory,           ///< zeros and copies
};

/// Times of work on one thread are of its processor's clock, which counts no other program's work; those of several
/// threads are of the wall clock.
class WorkClock {
 public:
  explicit WorkClock(int threads = 1) : of_thread_(threads == 1) {}
  bool of_thread() const { return of_thread_; }
  double seconds() const {
    if (of_thread_) {
      std::timespec time{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
      return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

 private:
  bool of_thread_;
};

/// What the machine gave in the same run.
struct MachineRates {
  double memory = 0;           ///< bytes a second of y += a x beyond the caches
  double products = 0;         ///< operations a second of a large product of floats
  double narrow_products = 0;  ///< the same of the 16-bit type that activations have; 0: none
};

/// Sums over the steps of a run, of which the first few, which make what later ones reuse, do not count.
///
/// The limit of a piece of work is the larger of its operations over the rate of products and its bytes (each operand
/// read and each result written once) over the rate of memory. Operands that are in a cache are read faster: work on
/// small activations may be below its limit.
class StepProfile {
 public:
  static constexpr std::size_t kinds = 16;
  static constexpr int left_out = 2;  ///< first steps that do not count

  struct Entry {
    double seconds = 0;
    double limit = 0;
    double flops = 0;
    double bytes = 0;
    double calls = 0;
  };

  /// What a call needs at least.
  struct Need {
    double flops = 0;
    double bytes = 0;
    bool narrow = false;  ///< its products multiply 16-bit numbers
  };

  StepProfile(const MachineRates& rates, int threads) : rates_(rates), clock_(threads) {}

  const MachineRates& rates() const { return rates_; }
  bool of_thread() const { return clock_.of_thread(); }
  int steps() const { return steps_; }
  double seconds() const { return seconds_; }
  double tokens() const { return tokens_; }
  const Entry& entry(Work kind) const { return entries_[static_cast<std::size_t>(kind)]; }

  /// Memory of operands of products with weights: tells forward and dX from what multiplies other matrices.
  void add_weights(const void* begin, const void* end) { weights_.emplace_back(begin, end); }
  bool is_weight(const void* p) const {
    return std::any_of(weights_.begin(), weights_.end(),
                       [p](const auto& range) { return p >= range.first && p < range.second; });
  }

  void begin_step() {
    ++begun_;
    recording_ = begun_ > left_out;
    updating_ = false;
    start_ = clock_.seconds();
  }
  void end_step(double tokens) {
    if (!recording_) return;
    seconds_ += clock_.seconds() - start_;
    tokens_ += tokens;
    ++steps_;
    recording_ = false;
  }
  /// The rest of the step's products belong to the weights' update.
  void begin_update() { updating_ = true; }
  bool updating() const { return updating_; }

  /// Whether all work is that of the head; returns what was said before. See HeadScope.
  bool in_head(bool yes) { return std::exchange(in_head_, yes); }

  /// The kind of C = op(A) op(B).
  Work product_kind(Op op_a, Op op_b, const void* b, const void* c) const {
    if (is_weight(c)) return Work::weight_update;
    if (is_weight(b)) return op_b == Op::transpose ? Work::forward : Work::input_gradient;
    if (updating_) return Work::weight_update;
    return op_a == Op::transpose ? Work::weight_gradient : Work::rotation;
  }

  /// Calls f. What f calls in its turn counts as part of it.
  template <class F>
  auto timed(Work kind, const Need& need, F&& f) {
    if (!recording_ || busy_) return f();
    const Call call(*this, in_head_ ? Work::head : kind, need);
    return f();
  }

 private:
  class Call {
   public:
    Call(StepProfile& profile, Work kind, const Need& need) : profile_(profile), kind_(kind), need_(need) {
      profile_.busy_ = true;
      start_ = profile_.clock_.seconds();
    }
    ~Call() {
      const double seconds = profile_.clock_.seconds() - start_;
      Entry& entry = profile_.entries_[static_cast<std::size_t>(kind_)];
      const MachineRates& rates = profile_.rates_;
      const double rate = need_.narrow ? rates.narrow_products : rates.products;
      entry.seconds += seconds;
      entry.limit += std::max(need_.flops / rate, need_.bytes / rates.memory);
      entry.flops += need_.flops;
      entry.bytes += need_.bytes;
      entry.calls += 1;
      profile_.busy_ = false;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    StepProfile& profile_;
    Work kind_;
    const Need& need_;
    double start_ = 0;
  };

  MachineRates rates_;
  WorkClock clock_;
  std::array<Entry, kinds> entries_{};
  std::vector<std::pair<const void*, const void*>> weights_;
  int begun_ = 0;
  int steps_ = 0;
  bool recording_ = false;
  bool updating_ = false;
  bool busy_ = false;
  bool in_head_ = false;
  double start_ = 0;
  double seconds_ = 0;
  double tokens_ = 0;
};

/// The profile that a context writes to, or null. Contexts of other backends than the program's have none.
template <class Context>
StepProfile* profile_of([[maybe_unused]] const Context& ctx) {
  if constexpr (requires { ctx.profile(); }) {
    return ctx.profile();
  } else {
    return nullptr;
  }
}

/// Calls f, as work of that kind where the context has a profile. `need` is called for StepProfile::Need then.
template <class Context, class Needs, class F>
auto profiled(Context& ctx, Work kind, Needs&& need, F&& f) {
  StepProfile* const profile = profile_of(ctx);
  if (profile == nullptr) return f();
  return profile->timed(kind, need(), f);
}

/// The same of work that reads and writes `bytes` at least.
template <class Context, class F>
auto profiled_bytes(Context& ctx, Work kind, double bytes, F&& f) {
  return profiled(
      ctx, kind,
      [&] {
        return StepProfile::Need{0, bytes};
      },
      f);
}

/// Bytes of `count` numbers.
template <class V>
double bytes_of(index_t count) {
  return static_cast<double>(count) * sizeof(V);
}

/// While it lives, products, sums and copies are work of the head.
class HeadScope {
 public:
  template <class Context>
  explicit HeadScope(const Context& ctx) : profile_(profile_of(ctx)) {
    if (profile_ != nullptr) before_ = profile_->in_head(true);
  }
  ~HeadScope() {
    if (profile_ != nullptr) profile_->in_head(before_);
  }
  HeadScope(const HeadScope&) = delete;
  HeadScope& operator=(const HeadScope&) = delete;

 private:
  StepProfile* profile_;
  bool before_ = false;
};

/// Measures the machine with the context's threads and products, some tenths of a second: best of a few runs.
template <class T, class Backend>
MachineRates measure_rates(typename Backend::Context& ctx) {
  const WorkClock clock(ctx.threads());
  const auto best = [&](int runs, auto&& f) {
    double least = std::numeric_limits<double>::max();
    f();
    for (int run = 0; run < runs; ++run) {
      const double start = clock.seconds();
      f();
      least = std::min(least, clock.seconds() - start);
    }
    return std::max(least, 1e-9);
  };
  constexpr index_t extent = 1024;
  const auto product_rate = [&]<class S>(S) {
    std::vector<S> memory(static_cast<std::size_t>(3 * extent * extent), S(1.0F));
    const MatrixView<const S> a(memory.data(), extent, extent);
    const MatrixView<const S> b(memory.data() + extent * extent, extent, extent);
    const MatrixView<S> c(memory.data() + 2 * extent * extent, extent, extent);
    const double seconds = best(6, [&] {
      Backend::template gemm<S>(ctx, Op::none, Op::transpose, compute_t<S>(1), a, b, compute_t<S>(0), c);
    });
    const auto n = static_cast<double>(extent);
    return 2 * n * n * n / seconds;
  };
  MachineRates rates;
  rates.products = product_rate(compute_t<T>());
  if constexpr (is_low_precision<T>) rates.narrow_products = product_rate(T());
  constexpr index_t count = index_t{1} << 24;
  Buffer<float, Backend> x(ctx, count);
  Buffer<float, Backend> y(ctx, count);
  const MatrixView<const float> from = x.matrix(1, count);
  const double seconds = best(4, [&] { Backend::template add<float>(ctx, 0.5F, from, y.matrix(1, count)); });
  rates.memory = 3 * sizeof(float) * static_cast<double>(count) / seconds;
  return rates;
}

}  // namespace sparsegrad::finetune
