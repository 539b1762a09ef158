#include "sparsegrad/sparse_adam.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "sparsegrad/backend/cpu.hpp"
#include "sparsegrad/backend/cpu_blas.hpp"
#include "sparsegrad/backend/reference.hpp"
#include "sparsegrad/io/safetensors.hpp"
#include "sparsegrad/tucker_basis.hpp"

using namespace sparsegrad;

namespace {

template <class T_, class B_>
struct On {
  using T = T_;
  using B = B_;
};

#define ON_ALL_BACKENDS                                                                   \
  On<float, backend::Reference>, On<double, backend::Reference>, On<float, backend::Cpu>, \
      On<double, backend::Cpu>, On<float, backend::CpuBlas>, On<double, backend::CpuBlas>

using Support = std::vector<stored_index_t>;

struct Entries {
  Support index;
  std::vector<double> value;
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : bits_(seed) {}
  index_t below(index_t n) { return static_cast<index_t>(bits_() % static_cast<std::uint64_t>(n)); }
  double uniform() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }
  /// A value that float holds exactly, of either sign and changing magnitude.
  double value() {
    return static_cast<double>(static_cast<float>((uniform() - 0.5) * std::pow(10.0, -3 * uniform())));
  }
  Entries entries(index_t size, index_t k) {
    std::set<stored_index_t> chosen;
    while (static_cast<index_t>(chosen.size()) < k)
      chosen.insert(static_cast<stored_index_t>(below(size)));
    Entries e{{chosen.begin(), chosen.end()}, {}};
    for (index_t i = 0; i < k; ++i)
      e.value.push_back(value());
    return e;
  }

 private:
  std::mt19937_64 bits_;
};

template <class T, class B>
SparseGradient<T, B> gradient(typename B::Context& ctx, index_t rows, index_t cols, const Entries& entries) {
  SparseGradient<T, B> s(ctx, rows, cols, static_cast<index_t>(entries.index.size()));
  const std::vector<T> values(entries.value.begin(), entries.value.end());
  s.assign(ctx, entries.index, values);
  return s;
}

/// A D as this optimizer wants it for this S.
template <class T, class B>
SparseGradient<T, B> update_for(typename B::Context& ctx, const SparseAdam<T, B>& adam,
                                const SparseGradient<T, B>& s) {
  return SparseGradient<T, B>(ctx, s.rows(), s.cols(), adam.update_capacity(s.count()));
}

/// Adam entry by entry from its definition, in double, with a state that holds everything.
class Oracle {
 public:
  Oracle(index_t size, SparseAdamOptions options)
      : options_(options), m(size_t_of(size)), v(size_t_of(size)), count(size_t_of(size)) {}

  /// Position -> d.
  std::map<stored_index_t, double> step(const Entries& s, double lr, double scale) {
    ++t_;
    std::map<stored_index_t, double> d;
    const bool whole = options_.semantics == AdamSemantics::dense_core;
    for (std::size_t i = 0; i < m.size(); ++i) {
      const auto position = static_cast<stored_index_t>(i);
      const auto at = std::lower_bound(s.index.begin(), s.index.end(), position);
      const bool in_s = at != s.index.end() && *at == position;
      if (in_s) met.insert(position);
      if (!in_s && !whole) continue;
      const double g = in_s ? scale * s.value[static_cast<std::size_t>(at - s.index.begin())] : 0.0;
      m[i] = options_.beta1 * m[i] + (1 - options_.beta1) * g;
      v[i] = options_.beta2 * v[i] + (1 - options_.beta2) * g * g;
      count[i] += in_s ? 1 : 0;
      const double t = options_.semantics == AdamSemantics::per_entry_step ? count[i] : t_;
      const double c1 = 1 - std::pow(options_.beta1, t);
      const double c2 = 1 - std::pow(options_.beta2, t);
      d[position] = options_.semantics == AdamSemantics::torch
                        ? -lr * std::sqrt(c2) / c1 * m[i] / (std::sqrt(v[i]) + options_.eps)
                        : -lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + options_.eps);
    }
    return d;
  }
  void forget(stored_index_t position) {
    const auto i = static_cast<std::size_t>(position);
    m[i] = v[i] = 0;
    count[i] = 0;
    met.erase(position);
  }

 private:
  static std::size_t size_t_of(index_t n) { return static_cast<std::size_t>(n); }
  SparseAdamOptions options_;
  int t_ = 0;

 public:
  std::vector<double> m, v;
  std::vector<int> count;
  std::set<stored_index_t> met;
};

template <class T, class B>
std::map<stored_index_t, double> entries_of(typename B::Context& ctx, const SparseGradient<T, B>& d) {
  const auto n = static_cast<std::size_t>(d.count());
  std::vector<T> values(n);
  Support index(n);
  for (std::size_t e = 0; e < n; ++e)
    index[e] = static_cast<stored_index_t>(e);
  if (n > 0) {
    B::template download<T>(ctx, d.values(), values.data(), d.count());
    if (!d.dense()) B::template download<stored_index_t>(ctx, d.indices(), index.data(), d.count());
  }
  std::map<stored_index_t, double> all;
  for (std::size_t e = 0; e < n; ++e)
    all[index[e]] = static_cast<double>(values[e]);
  CHECK(std::is_sorted(index.begin(), index.end()));
  CHECK(all.size() == n);
  return all;
}

/// The state as a whole core: positions that it does not hold are 0.
template <class T>
std::vector<double> spread(const OptimizerState<T>& s, const std::vector<T>& values) {
  std::vector<double> core(static_cast<std::size_t>(s.rows * s.cols));
  for (std::size_t e = 0; e < values.size(); ++e)
    core[s.compact ? static_cast<std::size_t>(s.index[e]) : e] = static_cast<double>(values[e]);
  return core;
}

template <class T>
bool same(const OptimizerState<T>& a, const OptimizerState<T>& b) {
  return a.steps == b.steps && a.compact == b.compact && a.index == b.index && a.array("m") == b.array("m") &&
         a.array("v") == b.array("v") && a.count == b.count;
}

template <class T>
void check_near(const std::vector<double>& found, const std::vector<double>& expected, double tolerance) {
  REQUIRE(found.size() == expected.size());
  double largest = 0;
  for (const double x : expected)
    largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    // Relative to the entry, and to the whole where entries cancel.
    CHECK(std::abs(found[i] - expected[i]) <= tolerance * (std::abs(expected[i]) + 0.01 * largest));
  }
}

template <class T>
constexpr double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-13;

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

constexpr AdamSemantics all_semantics[] = {AdamSemantics::torch, AdamSemantics::per_entry_step,
                                           AdamSemantics::dense_core};

}  // namespace

TEST_CASE_TEMPLATE("SparseAdam: every semantics equals its definition, compact and dense", On,
                   ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(2);
  const index_t rows = 7;
  const index_t cols = 13;
  const index_t size = rows * cols;
  for (const AdamSemantics semantics : all_semantics) {
    for (const index_t capacity : {index_t{0}, index_t{45}}) {
      CAPTURE(to_string(semantics));
      CAPTURE(capacity);
      SparseAdamOptions options;
      options.beta1 = 0.8;
      options.beta2 = 0.95;
      options.semantics = semantics;
      options.capacity = capacity;
      options.overflow = Overflow::go_dense;  // of dense_core: the oracle keeps every moment
      SparseAdam<T, B> adam(ctx, rows, cols, options);
      CHECK(adam.compact() == (capacity > 0));
      Oracle oracle(size, options);
      Random random(3);
      for (int t = 0; t < 60; ++t) {
        CAPTURE(t);
        // Within half of the core first: supports repeat, and 45 entries suffice.
        const index_t pool = t < 40 ? 40 : 45;
        const Entries s = random.entries(pool, t == 9 ? 0 : random.below(12));
        const double lr = 0.01 * (1 + t % 3);
        const auto expected = oracle.step(s, lr, 0.5);
        const auto g = gradient<T, B>(ctx, rows, cols, s);
        auto d = update_for(ctx, adam, g);
        const StepReport report = adam.step(ctx, g, {.learning_rate = lr, .grad_scale = 0.5}, d);
        CHECK(report.evicted == 0);
        CHECK(!report.went_dense);
        CHECK(report.updated == d.count());
        CHECK(report.state == adam.size());
        CHECK(adam.steps() == t + 1);
        const auto found = entries_of<T, B>(ctx, d);
        std::vector<double> a;
        std::vector<double> b;
        for (const auto& [position, value] : expected) {
          if (semantics == AdamSemantics::dense_core && adam.compact() && oracle.met.count(position) == 0) {
            CHECK(value == 0);  // D, made for all entries, says so too
          }
          REQUIRE(found.count(position) == 1);
          a.push_back(found.at(position));
          b.push_back(value);
        }
        CHECK(found.size() == a.size());
        check_near<T>(a, b, tolerance<T>);
      }
      const OptimizerState<T> state = adam.state(ctx);
      check_near<T>(spread(state, state.array("m")), oracle.m, tolerance<T>);
      check_near<T>(spread(state, state.array("v")), oracle.v, tolerance<T>);
      if (capacity > 0) CHECK(state.index == Support(oracle.met.begin(), oracle.met.end()));
      if (semantics == AdamSemantics::per_entry_step) {
        std::vector<std::int32_t> counts;
        for (std::size_t i = 0; i < oracle.count.size(); ++i)
          if (!adam.compact() || oracle.count[i] > 0) counts.push_back(oracle.count[i]);
        CHECK(state.count == counts);
      }
    }
  }
}

TEST_CASE_TEMPLATE("SparseAdam: torch.optim.SparseAdam and torch.optim.Adam over 50 steps", Backend,
                   backend::Reference, backend::Cpu, backend::CpuBlas) {
  const io::SafetensorsFile file(std::string(SPARSEGRAD_TEST_DIR) + "/golden/sparse_adam.safetensors");
  constexpr index_t rows = 6;
  constexpr index_t cols = 11;
  typename Backend::Context ctx(1);
  const auto counts = file.read<std::int32_t>("counts");
  const auto index = file.read<std::int32_t>("index");
  const auto value = file.read<float>("value");
  const auto dense_gradient = file.read<float>("dense_gradient");
  REQUIRE(counts.size() == 50);
  const double lr = 3e-3;

  // A few ulp of the quantity, or of the largest of its kind that took part in a cancelling sum.
  const auto near = [](float found, float expected, float scale, float ulp = 8) {
    return std::abs(found - expected) <= ulp * 6e-8F * (std::abs(expected) + scale);
  };
  for (const index_t capacity : {index_t{0}, index_t{43}}) {
    CAPTURE(capacity);
    SparseAdam<float, Backend> adam(ctx, rows, cols, {.capacity = capacity, .overflow = Overflow::go_dense});
    std::vector<float> weight = file.read<float>("weight");
    std::size_t at = 0;
    for (std::size_t t = 0; t < counts.size(); ++t) {
      const auto n = static_cast<std::size_t>(counts[t]);
      SparseGradient<float, Backend> s(ctx, rows, cols, counts[t]);
      s.assign(ctx, std::span(index).subspan(at, n), std::span(value).subspan(at, n));
      at += n;
      auto d = update_for(ctx, adam, s);
      adam.step(ctx, s, {.learning_rate = lr}, d);
      for (const auto& [position, x] : entries_of<float, Backend>(ctx, d))
        weight[static_cast<std::size_t>(position)] += static_cast<float>(x);
      if (t == 0 || t == 9 || t == 49) {
        const auto expected = file.read<float>("weight_" + std::to_string(t + 1));
        for (std::size_t i = 0; i < weight.size(); ++i) {
          CAPTURE(t);
          CAPTURE(i);
          CHECK(near(weight[i], expected[i], 0.05F));
        }
      }
    }
    CHECK(adam.compact() == false);  // step 32 brought the whole core
    const auto state = adam.state(ctx);
    const auto m = file.read<float>("m");
    const auto v = file.read<float>("v");
    for (std::size_t i = 0; i < m.size(); ++i) {
      CAPTURE(i);
      CHECK(near(state.array("m")[i], m[i], 0.01F));
      CHECK(near(state.array("v")[i], v[i], 0));
    }
  }

  // k = all under dense_core. torch's Adam multiplies by beta, rounded to float, where SparseAdam adds a
  // difference: an ulp a step lies between the two.
  SparseAdam<float, Backend> adam(ctx, rows, cols, {.semantics = AdamSemantics::dense_core});
  SparseGradient<float, Backend> s(ctx, rows, cols, rows * cols);
  SparseGradient<float, Backend> d(ctx, rows, cols, rows * cols);
  std::vector<float> weight = file.read<float>("weight");
  for (std::size_t t = 0; t < 50; ++t) {
    s.set_count(rows * cols);
    Backend::template upload<float>(ctx, dense_gradient.data() + t * rows * cols, s.values(), rows * cols);
    adam.step(ctx, s, {.learning_rate = lr}, d);
    for (std::size_t i = 0; i < weight.size(); ++i)
      weight[i] += d.values()[i];
  }
  const auto expected = file.read<float>("dense_weight_50");
  const auto m = file.read<float>("dense_m");
  const auto v = file.read<float>("dense_v");
  const auto state = adam.state(ctx);
  for (std::size_t i = 0; i < weight.size(); ++i) {
    CAPTURE(i);
    CHECK(near(weight[i], expected[i], 0.05F));
    CHECK(near(state.array("m")[i], m[i], 0.01F, 50));
    CHECK(near(state.array("v")[i], v[i], 0, 50));
  }
}

TEST_CASE_TEMPLATE("SparseAdam: go_dense keeps every moment", On, ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  for (const AdamSemantics semantics : all_semantics) {
    CAPTURE(to_string(semantics));
    SparseAdam<T, B> compact(ctx, 8, 16,
                             {.semantics = semantics, .capacity = 20, .overflow = Overflow::go_dense});
    SparseAdam<T, B> dense(ctx, 8, 16, {.semantics = semantics});
    Random random(5);
    bool went = false;
    for (int t = 0; t < 12; ++t) {
      const auto s = gradient<T, B>(ctx, 8, 16, random.entries(128, t == 10 ? 128 : 7));
      auto d = update_for(ctx, compact, s);
      auto d_dense = update_for(ctx, dense, s);
      const StepReport report = compact.step(ctx, s, {.learning_rate = 0.1}, d);
      dense.step(ctx, s, {.learning_rate = 0.1}, d_dense);
      CHECK(report.went_dense == (!compact.compact() && !went));
      went = went || report.went_dense;
      const auto found = entries_of<T, B>(ctx, d);
      for (const auto& [position, value] : entries_of<T, B>(ctx, d_dense)) {
        if (found.count(position) == 0) {
          CHECK(value == 0);  // dense_core, compact: an entry never met
        } else {
          CHECK(found.at(position) == value);
        }
      }
    }
    CHECK(went);
    CHECK(compact.capacity() == 128);
    const auto a = compact.state(ctx);
    const auto b = dense.state(ctx);
    CHECK(a.array("m") == b.array("m"));
    CHECK(a.array("v") == b.array("v"));
    CHECK(a.count == b.count);
  }
}

TEST_CASE_TEMPLATE("SparseAdam: evict_smallest forgets the smallest |m|, never one of S", On,
                   ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  for (const AdamSemantics semantics : all_semantics) {
    CAPTURE(to_string(semantics));
    const SparseAdamOptions options{
        .semantics = semantics, .capacity = 6, .overflow = Overflow::evict_smallest};
    SparseAdam<T, B> adam(ctx, 4, 10, options);
    SparseGradient<T, B> d(ctx, 4, 10, adam.update_capacity(6));
    const auto step = [&](const Entries& s) {
      return adam.step(ctx, gradient<T, B>(ctx, 4, 10, s), {.learning_rate = 0.1}, d);
    };
    step({{2, 5, 11, 20, 33}, {1, -0.25, 0.25, 4, 0.25}});
    // Two new ones, one too many: 5, 11 and 33 are equal, the highest goes.
    StepReport report = step({{7, 20, 39}, {8, 8, -8}});
    CHECK(report.evicted == 1);
    CHECK(report.state == 6);
    CHECK(adam.state(ctx).index == Support{2, 5, 7, 11, 20, 39});
    // An entry of S stays though its moment is the smallest.
    report = step({{5, 8, 9}, {0, 1, 1}});
    CHECK(report.evicted == 2);
    CHECK(adam.state(ctx).index == Support{5, 7, 8, 9, 20, 39});
    // S fills the whole state.
    report = step({{0, 1, 2, 3, 4, 5}, {1, 1, 1, 1, 1, 1}});
    CHECK(report.evicted == 5);
    CHECK(adam.state(ctx).index == Support{0, 1, 2, 3, 4, 5});
    if (semantics == AdamSemantics::per_entry_step) {
      CHECK(adam.state(ctx).count == std::vector<std::int32_t>{1, 1, 1, 1, 1, 3});  // 2 was forgotten
    }
    if (semantics != AdamSemantics::dense_core) CHECK(d.count() == 6);
  }
}

TEST_CASE_TEMPLATE("SparseAdam: 1000 random supports stay within the capacity", On, ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  const index_t rows = 31;
  const index_t cols = 37;
  for (const AdamSemantics semantics : all_semantics) {
    CAPTURE(to_string(semantics));
    const SparseAdamOptions options{
        .semantics = semantics, .capacity = 101, .overflow = Overflow::evict_smallest};
    SparseAdam<T, B> adam(ctx, rows, cols, options);
    const index_t bytes = adam.bytes();
    CHECK(bytes ==
          101 * static_cast<index_t>(
                    4 + 2 * sizeof(T) +
                    (adam.state(ctx).count.empty() && semantics != AdamSemantics::per_entry_step ? 0 : 4)));
    SparseGradient<T, B> d(ctx, rows, cols, adam.update_capacity(101));
    Oracle oracle(rows * cols, options);
    Random random(11);
    index_t evicted = 0;
    for (int t = 0; t < 1000; ++t) {
      const Entries s = random.entries(rows * cols, t % 50 == 0 ? 101 : random.below(40));
      const StepReport report = adam.step(ctx, gradient<T, B>(ctx, rows, cols, s), {.learning_rate = 0.1}, d);
      evicted += report.evicted;
      REQUIRE(adam.size() <= 101);
      REQUIRE(adam.compact());
      REQUIRE(adam.bytes() == bytes);
      const OptimizerState<T> state = adam.state(ctx);
      REQUIRE(std::includes(state.index.begin(), state.index.end(), s.index.begin(), s.index.end()));
      REQUIRE(std::adjacent_find(state.index.begin(), state.index.end(), std::greater_equal<>()) ==
              state.index.end());
      // What was evicted is forgotten by the oracle too, and by it alone tells the moments of the rest.
      std::vector<stored_index_t> gone;
      for (const stored_index_t position : oracle.met)
        if (!std::binary_search(state.index.begin(), state.index.end(), position)) gone.push_back(position);
      for (const stored_index_t position : gone)
        oracle.forget(position);
      oracle.step(s, 0.1, 1);
      if (semantics == AdamSemantics::dense_core) {
        for (const stored_index_t position : gone)
          oracle.forget(position);
      }
      REQUIRE(state.index == Support(oracle.met.begin(), oracle.met.end()));
    }
    CHECK(evicted > 10000);
    const OptimizerState<T> state = adam.state(ctx);
    check_near<T>(spread(state, state.array("m")), oracle.m, tolerance<T>);
    check_near<T>(spread(state, state.array("v")), oracle.v, tolerance<T>);
  }
}

TEST_CASE_TEMPLATE("SparseAdam: when it throws, nothing has changed", On, ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  Random random(2);
  for (const Overflow overflow : {Overflow::go_dense, Overflow::evict_smallest, Overflow::error}) {
    CAPTURE(to_string(overflow));
    SparseAdam<T, B> adam(ctx, 6, 10, {.capacity = 8, .overflow = overflow});
    SparseGradient<T, B> d(ctx, 6, 10, 59);
    const auto first = gradient<T, B>(ctx, 6, 10, {{1, 4, 9, 17, 59}, {1, 2, 3, 4, 5}});
    adam.step(ctx, first, {}, d);
    const OptimizerState<T> before = adam.state(ctx);
    const auto refuses = [&](const SparseGradient<T, B>& s, const StepOptions& options,
                             SparseGradient<T, B>& target, const std::string& text) {
      CHECK(message([&] { adam.step(ctx, s, options, target); }) == text);
      CHECK(same(before, adam.state(ctx)));
    };
    const double nan = std::nan("");
    refuses(
        first, {.learning_rate = nan}, d,
        "learning_rate is nan, expected 0 <= learning_rate <= " + number_text(std::numeric_limits<T>::max()));
    refuses(
        first, {.learning_rate = -1}, d,
        "learning_rate is -1, expected 0 <= learning_rate <= " + number_text(std::numeric_limits<T>::max()));
    refuses(first, {.grad_scale = INFINITY}, d,
            "grad_scale is inf, expected 0, or a magnitude from " +
                number_text(std::numeric_limits<T>::min()) + " to " +
                number_text(std::numeric_limits<T>::max()));
    SparseGradient<T, B> short_d(ctx, 6, 10, 4);
    refuses(first, {}, short_d, "D has room for 4 entries, expected at least 5");
    SparseGradient<T, B> other_d(ctx, 10, 6, 60);
    refuses(first, {}, other_d, "D is 10x6, expected 6x10 (rows x cols of the optimizer's core)");
    SparseGradient<T, B> whole_d(ctx, 6, 10, 60);
    refuses(first, {}, whole_d,
            "D was made for all entries of the core, expected room for the positions of 5; call its "
            "reserve_positions first");
    refuses(gradient<T, B>(ctx, 10, 6, {{1}, {1}}), {}, d,
            "S is 10x6, expected 6x10 (rows x cols of the optimizer's core)");
    const auto many = gradient<T, B>(ctx, 6, 10, random.entries(60, 9));
    const auto whole = gradient<T, B>(ctx, 6, 10, random.entries(60, 60));
    const auto four_new = gradient<T, B>(ctx, 6, 10, {{0, 2, 4, 5, 8}, {1, 1, 1, 1, 1}});
    if (overflow != Overflow::go_dense) {
      const std::string policy = std::string(" (overflow policy ") + to_string(overflow) + ")";
      refuses(many, {}, d, "S has 9 entries, expected at most the state's capacity 8" + policy);
      refuses(whole, {}, d, "S has 60 entries, expected at most the state's capacity 8" + policy);
      CHECK_THROWS_AS(adam.check(ctx, whole), CapacityError);
    } else {
      CHECK_NOTHROW(adam.check(ctx, whole));
    }
    if (overflow == Overflow::error) {
      refuses(four_new, {}, d,
              "the state holds 5 entries and S brings 4 new ones, expected at most the capacity 8 together "
              "(overflow "
              "policy error)");
      CHECK_THROWS_AS(adam.check(ctx, four_new), CapacityError);
      // Three new ones fit exactly.
      adam.step(ctx, gradient<T, B>(ctx, 6, 10, {{0, 1, 2, 3}, {1, 1, 1, 1}}), {}, d);
      CHECK(adam.size() == 8);
    }
    if (overflow == Overflow::evict_smallest) {
      const auto poison = gradient<T, B>(ctx, 6, 10, {{4}, {nan}});
      adam.step(ctx, poison, {}, d);
      const auto poisoned = adam.state(ctx);
      CHECK(message([&] { adam.step(ctx, four_new, {}, d); }) ==
            "entries must be evicted by their moments, which hold NaN or Inf; expected finite numbers");
      CHECK(adam.steps() == poisoned.steps);
      CHECK(adam.size() == 5);
    }
  }
}

TEST_CASE("SparseAdam: options and extents are checked") {
  backend::Cpu::Context ctx(1);
  const auto text = [&](const SparseAdamOptions& options, index_t rows = 2, index_t cols = 3) {
    return message([&] { SparseAdam<float>(ctx, rows, cols, options); });
  };
  CHECK(text({.beta1 = 1}) == "beta1 is 1, expected 0 <= beta1 < 1");
  CHECK(text({.beta2 = -0.5}) == "beta2 is -0.5, expected 0 <= beta2 < 1");
  CHECK(text({.eps = std::nan("")}) ==
        "eps is nan, expected a finite number >= 1.1754944e-38, the smallest normal one, and <= "
        "1.0760673e+37");
  // An entry without any gradient would get 0 / 0; 1e-50 is 0 in float.
  CHECK_THROWS_AS(SparseAdam<float>(ctx, 2, 3, {.eps = 0}), ValueError);
  CHECK_THROWS_AS(SparseAdam<float>(ctx, 2, 3, {.eps = 1e-50}), ValueError);
  CHECK_NOTHROW(SparseAdam<double>(ctx, 2, 3, {.eps = 1e-50}));
  CHECK(text({.capacity = -1}) == "capacity is -1, expected >= 0 (0: dense)");
  CHECK(text({.capacity = 1}, 1 << 16, 1 << 15) ==
        "an optimizer of a core of 65536x32768 has positions beyond 2^31 - 1, which 32-bit indices cannot "
        "hold");
  // The smaller form: 12 bytes an entry against 8.
  CHECK(SparseAdam<float>(ctx, 3, 10, {.capacity = 19}).compact());
  CHECK(!SparseAdam<float>(ctx, 3, 10, {.capacity = 20}).compact());
  CHECK(!SparseAdam<float>(ctx, 3, 10, {.capacity = 500}).compact());
  // An empty core takes empty steps.
  SparseAdam<float> none(ctx, 0, 5);
  SparseGradient<float> s(ctx, 0, 5, 0);
  SparseGradient<float> d(ctx, 0, 5, 0);
  CHECK(none.step(ctx, s, {}, d).updated == 0);
}

TEST_CASE_TEMPLATE("SparseAdam: a state restored goes on bit by bit", On, ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  for (const AdamSemantics semantics : all_semantics) {
    for (const Overflow overflow : {Overflow::go_dense, Overflow::evict_smallest}) {
      const SparseAdamOptions options{.semantics = semantics, .capacity = 40, .overflow = overflow};
      SparseAdam<T, B> whole(ctx, 10, 10, options);
      SparseAdam<T, B> second(ctx, 10, 10, options);
      Random random(4);
      for (int t = 0; t < 20; ++t) {
        const auto s = gradient<T, B>(ctx, 10, 10, random.entries(100, 15));
        auto d = update_for(ctx, whole, s);
        auto d2 = update_for(ctx, second, s);
        whole.step(ctx, s, {}, d);
        if (t > 1) second.step(ctx, s, {}, d2);
        if (t == 1 || t == 9) second.restore(ctx, whole.state(ctx));
        REQUIRE((t < 1 || same(whole.state(ctx), second.state(ctx))));
        if (t > 1) REQUIRE(entries_of<T, B>(ctx, d) == entries_of<T, B>(ctx, d2));
      }
      CHECK(whole.compact() == (overflow == Overflow::evict_smallest));
      // And back from dense to compact.
      SparseAdam<T, B> fresh(ctx, 10, 10, options);
      whole.restore(ctx, fresh.state(ctx));
      CHECK(whole.compact());
      CHECK(whole.size() == 0);
    }
  }
}

TEST_CASE("SparseAdam: restore says what does not fit") {
  backend::Cpu::Context ctx(1);
  const SparseAdamOptions options{.semantics = AdamSemantics::per_entry_step, .capacity = 5};
  SparseAdam<float> adam(ctx, 4, 5, options);
  SparseGradient<float> d(ctx, 4, 5, 3);
  adam.step(ctx, gradient<float, DefaultBackend>(ctx, 4, 5, {{3, 8, 9}, {1, 2, 3}}), {}, d);
  const OptimizerState<float> good = adam.state(ctx);
  const auto text = [&](auto change) {
    OptimizerState<float> bad = good;
    change(bad);
    const std::string found = message([&] { adam.restore(ctx, bad); });
    CHECK(same(good, adam.state(ctx)));
    return found;
  };
  CHECK(text([](auto& s) { s.rows = 5; }) == "the saved state is for a core of 5x5, expected 4x5");
  CHECK(text([](auto& s) { s.number("beta1") = 0.8; }) ==
        "the saved state was made with beta1 0.8, expected 0.9");
  CHECK(text([](auto& s) { s.text("semantics") = "torch"; }) ==
        "the saved state was made with semantics torch, expected per_entry_step");
  CHECK(text([](auto& s) { s.capacity = 6; }) == "the saved state was made with capacity 6, expected 5");
  CHECK(text([](auto& s) { s.text("overflow") = "error"; }) ==
        "the saved state was made with overflow policy error, expected evict_smallest");
  CHECK(text([](auto& s) { s.steps = -1; }) == "the saved state has step -1, expected >= 0");
  CHECK(text([](auto& s) { s.array("m").pop_back(); }) == "the saved state has 2 numbers in m, expected 3");
  CHECK(text([](auto& s) { s.count.clear(); }) == "the saved state has 0 numbers in count, expected 3");
  CHECK(text([](auto& s) { s.index[1] = 3; }) ==
        "the saved state has position 3 at entry 1, expected strictly rising positions in [0, 20)");
  CHECK(text([](auto& s) { s.index[2] = 20; }) ==
        "the saved state has position 20 at entry 2, expected strictly rising positions in [0, 20)");
  CHECK(text([](auto& s) { s.array("v")[0] = -1; }) ==
        "the saved state has v = -1 at entry 0, expected >= 0");
  CHECK(text([](auto& s) { s.count[2] = -4; }) == "the saved state has count -4 at entry 2, expected >= 0");
  CHECK(text([](auto& s) { s.compact = false; }) == "the saved state has 3 numbers in m, expected 20");

  // A dense state is what go_dense makes of a compact one; the other policies have none, nor room for its updates.
  for (const Overflow overflow : {Overflow::evict_smallest, Overflow::error}) {
    SparseAdam<float> compact(ctx, 4, 5, {.capacity = 5, .overflow = overflow});
    OptimizerState<float> dense = compact.state(ctx);
    dense.compact = false;
    dense.array("m").resize(20);
    dense.array("v").resize(20);
    CHECK(message([&] { compact.restore(ctx, dense); }) ==
          std::string("the saved state is dense, expected compact under overflow policy ") +
              to_string(overflow));
    CHECK(compact.compact());
  }
}

TEST_CASE("SparseAdam: visit_state names every array") {
  backend::Cpu::Context ctx(1);
  SparseAdam<float> adam(ctx, 4, 5, {.semantics = AdamSemantics::per_entry_step, .capacity = 5});
  SparseGradient<float> d(ctx, 4, 5, 3);
  adam.step(ctx, gradient<float, DefaultBackend>(ctx, 4, 5, {{3, 8, 9}, {1, 2, 3}}), {}, d);
  std::string names;
  adam.visit_state([&](std::string_view name, auto view) {
    names +=
        std::string(name) + ":" + std::to_string(view.size()) + "x" + std::to_string(sizeof(view[0])) + " ";
  });
  CHECK(names == "step:1x8 index:3x4 m:3x4 v:3x4 count:3x4 ");
  adam.reset(ctx);
  CHECK(adam.size() == 0);
  CHECK(adam.steps() == 0);
}

TEST_CASE_TEMPLATE("locate_entries and insert_entries: every backend as the plain loops", B, backend::Cpu,
                   backend::CpuBlas) {
  typename B::Context ctx(1);
  Random random(9);
  for (int round = 0; round < 300; ++round) {
    CAPTURE(round);
    const index_t size = 1 + random.below(round % 3 == 0 ? 200 : 5000);
    const index_t n = random.below(std::min<index_t>(size, 1000) + 1);
    const index_t k = random.below(std::min<index_t>(size, round % 2 == 0 ? 40 : 700) + 1);
    const Support held = random.entries(size, n).index;
    const Support index = random.entries(size, k).index;
    struct Result {
      Support place, added, held;
      std::vector<float> m, v;
      std::vector<std::int32_t> count;
    };
    const auto run = [&]<class X>(X) {
      Result r{Support(index.size()), Support(index.size()), held, {}, {}, {}};
      for (std::size_t e = 0; e < held.size(); ++e) {
        r.m.push_back(static_cast<float>(held[e]) + 0.5F);
        r.v.push_back(static_cast<float>(held[e]) + 0.25F);
        r.count.push_back(held[e] + 7);
      }
      const index_t q =
          X::locate_entries(ctx, index.data(), k, r.held.data(), n, r.place.data(), r.added.data());
      r.added.resize(static_cast<std::size_t>(q));
      r.held.resize(static_cast<std::size_t>(n + q));
      r.m.resize(r.held.size());
      r.v.resize(r.held.size());
      r.count.resize(r.held.size());
      X::template insert_entries<float>(ctx, index.data(), r.place.data(), r.added.data(), q, r.held.data(),
                                        n, r.m.data(), r.v.data(), r.count.data());
      return r;
    };
    const Result a = run(B{});
    const Result b = run(backend::Reference{});
    REQUIRE(a.place == b.place);
    REQUIRE(a.added == b.added);
    REQUIRE(a.held == b.held);
    REQUIRE(a.m == b.m);
    REQUIRE(a.v == b.v);
    REQUIRE(a.count == b.count);
    Support merged;
    std::set_union(held.begin(), held.end(), index.begin(), index.end(), std::back_inserter(merged));
    REQUIRE(b.held == merged);
    for (std::size_t e = 0; e < index.size(); ++e)
      REQUIRE(merged[static_cast<std::size_t>(b.place[e])] == index[e]);
  }
}

TEST_CASE_TEMPLATE("SparseAdam: rebase transports exactly between full bases", On, ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  using Side = BasisSide<T, B>;
  typename B::Context ctx(1);
  const index_t rows = 6;
  const index_t cols = 8;
  const double exact = sizeof(T) == 4 ? 2e-5 : 1e-12;
  std::vector<typename TuckerBasis<T, B>::Pointer> bases;
  bases.push_back(TuckerBasis<T, B>::identity(rows, cols));
  bases.push_back(
      TuckerBasis<T, B>::from_sides(Side::random(ctx, rows, rows, 1), Side::random(ctx, cols, cols, 2)));
  bases.push_back(TuckerBasis<T, B>::from_sides(Side::hadamard(ctx, rows, 3), Side::identity(cols)));
  bases.push_back(
      TuckerBasis<T, B>::from_sides(Side::random(ctx, rows, rows, 4), Side::hadamard(ctx, cols, 5)));
  for (const AdamSemantics semantics : all_semantics) {
    for (const auto& from : bases) {
      for (const auto& to : bases) {
        SparseAdam<T, B> adam(ctx, rows, cols, {.semantics = semantics});
        Random random(6);
        for (int t = 0; t < 5; ++t) {
          const auto s = gradient<T, B>(ctx, rows, cols, random.entries(rows * cols, t == 0 ? 48 : 20));
          auto d = update_for(ctx, adam, s);
          adam.step(ctx, s, {}, d);
        }
        OptimizerState<T> before = adam.state(ctx);
        // Equal counts: the common bias is then no question.
        if (!before.count.empty()) std::fill(before.count.begin(), before.count.end(), 3);
        adam.restore(ctx, before);

        const RebaseReport report = adam.rebase(ctx, *from, *to, MomentsPolicy::transport);
        CHECK(report.lost_to_basis == doctest::Approx(0).epsilon(1e-5));
        CHECK(report.lost_to_capacity == 0);
        CHECK(report.entries == rows * cols);
        const OptimizerState<T> there = adam.state(ctx);
        CHECK(there.steps == before.steps);
        CHECK(there.count == before.count);
        for (const T v : there.array("v"))
          CHECK(v >= 0);

        // V m U^T is the same matrix.
        Buffer<T, B> a(ctx, rows * cols);
        Buffer<T, B> b(ctx, rows * cols);
        std::vector<T> m_before = before.array("m");
        std::vector<T> m_there = there.array("m");
        from->expand(ctx, MatrixView<const T>(m_before.data(), rows, cols), T(0), a.matrix(rows, cols));
        to->expand(ctx, MatrixView<const T>(m_there.data(), rows, cols), T(0), b.matrix(rows, cols));
        check_near<T>({b.data(), b.data() + b.size()}, {a.data(), a.data() + a.size()}, exact * 50);

        adam.rebase(ctx, *to, *from, MomentsPolicy::transport);
        const OptimizerState<T> back = adam.state(ctx);
        check_near<T>({back.array("m").begin(), back.array("m").end()},
                      {before.array("m").begin(), before.array("m").end()}, exact * 50);
        // The second moments keep their sum (each squared rotation is doubly stochastic).
        double sum_before = 0;
        double sum_there = 0;
        for (std::size_t i = 0; i < there.array("v").size(); ++i) {
          sum_before += static_cast<double>(before.array("v")[i]);
          sum_there += static_cast<double>(there.array("v")[i]);
        }
        CHECK(sum_there == doctest::Approx(sum_before).epsilon(1e-5));
        if (from == to && !from->out().rotates() && !from->in().rotates())
          CHECK(there.array("m") == before.array("m"));
      }
    }
  }
}

TEST_CASE_TEMPLATE(
    "SparseAdam: rebase of v by the squared rotation, of counts, of ranks and of compact states", On,
    ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  using Side = BasisSide<T, B>;
  typename B::Context ctx(1);
  const index_t rows = 5;
  const index_t cols = 8;
  // V' = rotation by 30 degrees of the first two directions.
  const double c = std::sqrt(3.0) / 2;
  const double s = 0.5;
  std::vector<T> turned(25);
  for (std::size_t i = 0; i < 5; ++i)
    turned[i * 6] = 1;
  turned[0] = turned[6] = static_cast<T>(c);
  turned[1] = static_cast<T>(s);   // row 0 of U^T: c e0 + s e1
  turned[5] = static_cast<T>(-s);  // row 1: -s e0 + c e1
  const auto from = TuckerBasis<T, B>::identity(rows, cols);
  const auto to =
      TuckerBasis<T, B>::from_sides(Side::from_host_rows(ctx, rows, rows, turned), Side::identity(cols));

  const SparseAdamOptions options{.semantics = AdamSemantics::per_entry_step, .capacity = 10};
  SparseAdam<T, B> adam(ctx, rows, cols, options);
  OptimizerState<T> state = adam.state(ctx);
  state.steps = 9;
  state.index = {3, 11, 30};  // (0,3), (1,3), (3,6)
  state.array("m") = {T(2), T(1), T(5)};
  state.array("v") = {T(4), T(3), T(7)};
  state.count = {4, 4, 1};
  adam.restore(ctx, state);
  RebaseReport report = adam.rebase(ctx, *from, *to, MomentsPolicy::transport);
  CHECK(report.energy_before == doctest::Approx(30));
  CHECK(report.lost_to_basis < 1e-6);
  CHECK(report.lost_to_capacity < 1e-6);
  const OptimizerState<T> moved = adam.state(ctx);
  CHECK(moved.index == state.index);
  CHECK(moved.steps == 9);
  CHECK(moved.count == std::vector<std::int32_t>{4, 4, 4});
  const double bias1 = (1 - std::pow(0.9, 4)) / (1 - 0.9);
  const double bias2 = (1 - std::pow(0.999, 4)) / (1 - 0.999);
  CHECK(static_cast<double>(moved.array("m")[0]) == doctest::Approx(2 * c + 1 * s));
  CHECK(static_cast<double>(moved.array("m")[1]) == doctest::Approx(-2 * s + 1 * c));
  CHECK(static_cast<double>(moved.array("m")[2]) == doctest::Approx(5 * bias1));
  CHECK(static_cast<double>(moved.array("v")[0]) == doctest::Approx(4 * c * c + 3 * s * s));
  CHECK(static_cast<double>(moved.array("v")[1]) == doctest::Approx(4 * s * s + 3 * c * c));
  CHECK(static_cast<double>(moved.array("v")[2]) == doctest::Approx(7 * bias2));

  // A compact state stays as large as it was: of 2 x 5 moved entries the 2 largest remain.
  const auto mixed = TuckerBasis<T, B>::from_sides(Side::random(ctx, rows, rows, 8), Side::identity(cols));
  SparseAdam<T, B> few(ctx, rows, cols, {.capacity = 10});
  OptimizerState<T> two = few.state(ctx);
  two.index = {0, 17};
  two.array("m") = {T(1), T(-3)};
  two.array("v") = {T(1), T(9)};
  few.restore(ctx, two);
  report = few.rebase(ctx, *from, *mixed, MomentsPolicy::transport);
  CHECK(report.entries == 2);
  CHECK(few.compact());
  double kept = 0;
  for (const T m : few.state(ctx).array("m"))
    kept += static_cast<double>(m) * static_cast<double>(m);
  CHECK(report.lost_to_capacity == doctest::Approx(1 - kept / 10));
  CHECK(report.lost_to_capacity > 0);

  // Truncation: what lies outside of the new basis is lost, and reported.
  const auto cut = TuckerBasis<T, B>::from_sides(
      Side::from_host_rows(ctx, 2, rows, std::span<const T>(turned).first(10)), Side::identity(cols));
  adam.restore(ctx, state);
  report = adam.rebase(ctx, *from, *cut, MomentsPolicy::transport);
  CHECK(adam.rows() == 2);
  CHECK(adam.cols() == cols);
  CHECK(report.lost_to_basis == doctest::Approx(25 * bias1 * bias1 / (25 * bias1 * bias1 + 5)));
  CHECK(report.entries == 2);
  SparseGradient<T, B> d(ctx, 2, cols, 2);
  adam.step(ctx, gradient<T, B>(ctx, 2, cols, {{0, 15}, {1, 1}}), {}, d);

  // Reset.
  report = adam.rebase(ctx, *cut, *to, MomentsPolicy::reset);
  CHECK(adam.rows() == rows);
  CHECK(adam.size() == 0);
  CHECK(adam.steps() == 0);
  CHECK(adam.compact());
  CHECK(report.lost_to_basis == 1);
  CHECK(report.entries == 0);

  CHECK(message([&] { adam.rebase(ctx, *cut, *to, MomentsPolicy::transport); }) ==
        "the old basis's core is 2x8, expected 5x8 (rows x cols of the optimizer's core)");
  const auto other = TuckerBasis<T, B>::identity(rows, cols + 1);
  CHECK(message([&] { adam.rebase(ctx, *to, *other, MomentsPolicy::transport); }) ==
        "the new basis's gradient is 5x9, expected 5x8 (out x in of the old basis)");
}

TEST_CASE_TEMPLATE("SparseAdam: a small gradient after a large one counts with small betas", On,
                   ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  const double large = sizeof(T) == 4 ? 1e4 : 1e9;
  for (const auto& [beta1, beta2] : {std::pair(0.9, 0.0), std::pair(0.0, 0.0), std::pair(0.0, 0.999),
                                     std::pair(0.3, 1e-6), std::pair(1e-6, 0.1)}) {
    for (const AdamSemantics semantics : all_semantics) {
      CAPTURE(beta1);
      CAPTURE(beta2);
      CAPTURE(to_string(semantics));
      SparseAdamOptions options;
      options.beta1 = beta1;
      options.beta2 = beta2;
      options.semantics = semantics;
      SparseAdam<T, B> adam(ctx, 3, 4, options);
      Oracle oracle(12, options);
      // Scales that change: what Adam makes of a constant one is the same as of none.
      for (const auto& [g, scale] :
           {std::pair(large, 1.0), std::pair(0.5, 1.0), std::pair(-0.25, 2.0), std::pair(0.125, 0.5)}) {
        const Entries s{{2, 7}, {g, 1}};
        const auto expected = oracle.step(s, 1e-3, scale);
        const auto gradient_now = gradient<T, B>(ctx, 3, 4, s);
        auto d = update_for(ctx, adam, gradient_now);
        adam.step(ctx, gradient_now, {.learning_rate = 1e-3, .grad_scale = scale}, d);
        const auto found = entries_of<T, B>(ctx, d);
        for (const auto& [position, value] : expected)
          CHECK(std::abs(found.at(position) - value) <= 20 * tolerance<T> * std::abs(value));
      }
    }
  }
}

TEST_CASE_TEMPLATE("SparseAdam: the smallest |m| is evicted, whatever its v", On, ON_ALL_BACKENDS) {
  using T = typename On::T;
  using B = typename On::B;
  typename B::Context ctx(1);
  SparseAdam<T, B> adam(ctx, 1, 20, {.beta1 = 0.5, .capacity = 3});
  REQUIRE(adam.compact());
  SparseGradient<T, B> d(ctx, 1, 20, 3);
  const auto step = [&](const Entries& s) { return adam.step(ctx, gradient<T, B>(ctx, 1, 20, s), {}, d); };
  step({{3, 8, 11}, {100, 2, 4}});  // m is 50, 1, 2
  step({{3}, {-49}});               // m of 3 is 1/2, its v the largest by far
  const auto state = adam.state(ctx);
  CHECK(state.array("m")[0] == T(0.5));
  CHECK(state.array("v")[0] > 100 * state.array("v")[2]);
  CHECK(step({{15}, {1}}).evicted == 1);
  CHECK(adam.state(ctx).index == Support{8, 11, 15});
}

TEST_CASE("SparseAdam: after an eviction every entry has its own count") {
  using B = backend::Reference;
  B::Context ctx;
  SparseAdam<double, B> adam(ctx, 1, 20, {.semantics = AdamSemantics::per_entry_step, .capacity = 3});
  REQUIRE(adam.compact());
  SparseGradient<double, B> s(ctx, 1, 20, 3);
  SparseGradient<double, B> d(ctx, 1, 20, 3);
  const auto step = [&](const Support& at, const std::vector<double>& g) {
    s.assign(ctx, at, g);
    return adam.step(ctx, s, {}, d);
  };
  step({3, 8, 11}, {1, 5, 9});
  step({11}, {9});
  CHECK(step({15}, {7}).evicted == 1);
  const auto state = adam.state(ctx);
  CHECK(state.index == std::vector<stored_index_t>{8, 11, 15});
  CHECK(state.count == std::vector<std::int32_t>{1, 2, 1});
}

TEST_CASE("SparseAdam: reset leaves nothing of a dense state") {
  using B = backend::Reference;
  B::Context ctx;
  SparseAdam<double, B> adam(ctx, 1, 4, {.capacity = 4});
  REQUIRE(!adam.compact());
  SparseGradient<double, B> s(ctx, 1, 4, 2);
  SparseGradient<double, B> d(ctx, 1, 4, 2);
  s.assign(ctx, std::vector<stored_index_t>{0, 2}, std::vector<double>{1, 5});
  adam.step(ctx, s, {}, d);
  adam.reset(ctx);
  CHECK(adam.state(ctx).array("v") == std::vector<double>(4));
}
