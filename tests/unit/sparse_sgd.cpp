#include "sparsegrad/extras/sparse_sgd.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "sparsegrad/io/state_file.hpp"
#include "sparsegrad/tucker_basis.hpp"
#include "support/stacks.hpp"

using namespace sparsegrad;

namespace {

static_assert(CoreOptimizer<SparseSgd<float>, float, DefaultBackend>);
static_assert(!BatchedOptimizer<SparseSgd<float>, float, DefaultBackend>);
static_assert(BatchedOptimizer<SparseAdam<float>, float, DefaultBackend>);

constexpr index_t rows = 6;
constexpr index_t cols = 8;

/// Nothing but what the concept asks: d = -lr sign(g).
struct SignDescent {
  using B = DefaultBackend;
  struct Options {
    friend bool operator==(const Options&, const Options&) = default;
  };
  index_t r = 0;
  index_t c = 0;
  std::int64_t t = 0;

  SignDescent(B::Context&, index_t all_rows, index_t all_cols, const Options&) : r(all_rows), c(all_cols) {}
  index_t rows() const { return r; }
  index_t cols() const { return c; }
  index_t bytes() const { return 0; }
  std::int64_t steps() const { return t; }
  StepReport step(B::Context& ctx, const SparseGradient<float>& s, const StepOptions& options,
                  SparseGradient<float>& d) {
    core_optimizer::require_step(d, r, c, s.count(), options);
    d.copy_support(ctx, s);
    for (index_t e = 0; e < s.count(); ++e)
      d.values()[e] = -static_cast<float>(options.learning_rate) * std::copysign(1.0F, s.values()[e]);
    ++t;
    return {.updated = s.count()};
  }
  void reset(B::Context&) { t = 0; }
  RebaseReport rebase(B::Context&, const TuckerBasis<float>&, const TuckerBasis<float>& to, MomentsPolicy,
                      const Options&) {
    r = to.rows();
    c = to.cols();
    return {};
  }
  OptimizerState<float> state(B::Context&) const {
    OptimizerState<float> s;
    s.type = "sign_descent 1";
    s.rows = r;
    s.cols = c;
    s.steps = t;
    return s;
  }
  void restore(B::Context&, const OptimizerState<float>& s) {
    core_optimizer::require_state(s, "sign_descent 1", r, c);
    t = s.steps;
  }
};
static_assert(CoreOptimizer<SignDescent, float, DefaultBackend>);
static_assert(!CoreOptimizer<SignDescent, double, DefaultBackend>);
static_assert(!CoreOptimizer<int, float, DefaultBackend>);

using Entries = std::map<stored_index_t, double>;

Entries random_entries(std::mt19937_64& bits, index_t k, index_t pool = rows * cols) {
  Entries entries;
  while (static_cast<index_t>(entries.size()) < k) {
    const double value = static_cast<double>(static_cast<float>(bits() >> 40)) * 0x1p-24 - 0.5;
    entries[static_cast<stored_index_t>(bits() % static_cast<std::uint64_t>(pool))] = value;
  }
  return entries;
}

template <class T, class B>
SparseGradient<T, B> gradient(typename B::Context& ctx, const Entries& entries) {
  std::vector<stored_index_t> index;
  std::vector<T> values;
  for (const auto& [position, value] : entries) {
    index.push_back(position);
    values.push_back(static_cast<T>(value));
  }
  SparseGradient<T, B> s(ctx, rows, cols, static_cast<index_t>(entries.size()));
  s.assign(ctx, index, values);
  return s;
}

template <class T, class B>
Entries entries_of(const SparseGradient<T, B>& d) {  // host backends: readable where it is
  Entries entries;
  for (index_t e = 0; e < d.count(); ++e)
    entries[d.dense() ? static_cast<stored_index_t>(e) : d.indices()[e]] = static_cast<double>(d.values()[e]);
  return entries;
}

/// Every entry of the core by itself, in double.
struct PlainLoop {
  double mu;
  bool nesterov;
  std::vector<double> m = std::vector<double>(static_cast<std::size_t>(rows * cols));
  std::set<stored_index_t> met = {};

  Entries step(const Entries& s, double lr, double scale) {
    Entries d;
    for (const auto& [position, value] : s) {
      const double g = scale * value;
      double& moment = m[static_cast<std::size_t>(position)];
      moment = mu * moment + g;
      d[position] = nesterov ? -lr * (g + mu * moment) : -lr * moment;
      met.insert(position);
    }
    return d;
  }
};

template <class T>
std::vector<double> spread(const OptimizerState<T>& s) {
  std::vector<double> core(static_cast<std::size_t>(s.rows * s.cols));
  const std::vector<T>& m = s.array("m");
  for (std::size_t e = 0; e < m.size(); ++e)
    core[s.compact ? static_cast<std::size_t>(s.index[e]) : e] = static_cast<double>(m[e]);
  return core;
}

void check_near(const std::vector<double>& found, const std::vector<double>& expected, double tolerance) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(found[i] - expected[i]) <= tolerance);
  }
}

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE_TEMPLATE("SparseSgd: every step equals plain loops, compact and dense", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-14;
  for (const bool nesterov : {false, true}) {
    for (const double momentum : {0.0, 0.9}) {
      for (const index_t capacity : {0, 20}) {
        CAPTURE(nesterov);
        CAPTURE(momentum);
        CAPTURE(capacity);
        SparseSgd<T, B> sgd(ctx, rows, cols,
                            {.momentum = momentum,
                             .nesterov = nesterov,
                             .capacity = capacity,
                             .overflow = Overflow::go_dense});
        CHECK(sgd.compact() == (capacity > 0));
        PlainLoop plain{momentum, nesterov};
        std::mt19937_64 bits(3);
        for (int t = 0; t < 60; ++t) {
          CAPTURE(t);
          // Within the capacity first; in the end the state goes dense, and a gradient has all entries.
          const index_t k = t == 7 ? 0 : t == 55 ? rows * cols : 5;
          const Entries entries = random_entries(bits, k, t < 50 ? 20 : rows * cols);
          const auto s = gradient<T, B>(ctx, entries);
          SparseGradient<T, B> d(ctx, rows, cols, k);
          const double lr = 0.1 * (1 + t % 3);
          const StepReport report = sgd.step(ctx, s, {.learning_rate = lr, .grad_scale = 0.5}, d);
          const Entries found = entries_of(d);
          const Entries expected = plain.step(entries, lr, 0.5);
          REQUIRE(found.size() == expected.size());
          for (const auto& [position, value] : expected) {
            REQUIRE(found.count(position) == 1);
            CHECK(std::abs(found.at(position) - value) <= tolerance);
          }
          CHECK(report.updated == k);
          CHECK(report.state == sgd.size());
          CHECK(sgd.steps() == t + 1);
          if (capacity > 0 && t == 49) CHECK(sgd.compact());
        }
        CHECK(!sgd.compact());
        check_near(spread(sgd.state(ctx)), plain.m, tolerance);
      }
    }
  }
}

TEST_CASE_TEMPLATE("SparseSgd: a full state forgets the smallest moments, or refuses", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  SparseSgd<T, B> sgd(ctx, rows, cols, {.capacity = 5, .overflow = Overflow::evict_smallest});
  // A position and a moment an entry: 8 bytes of float in place of 12 with two moments.
  CHECK(sgd.bytes() == 5 * static_cast<index_t>(sizeof(T) + sizeof(stored_index_t)));
  SparseGradient<T, B> d(ctx, rows, cols, 5);
  sgd.step(ctx, gradient<T, B>(ctx, {{2, 1}, {5, -0.25}, {11, 0.25}, {20, 4}}), {}, d);
  // Two new ones, one too many: 5 and 11 are equal, the higher position goes.
  const StepReport report = sgd.step(ctx, gradient<T, B>(ctx, {{7, 8}, {39, -8}}), {}, d);
  CHECK(report.evicted == 1);
  CHECK(sgd.state(ctx).index == std::vector<stored_index_t>{2, 5, 7, 20, 39});
  // An entry of S stays though its moment is the smallest, and one that comes back starts anew.
  sgd.step(ctx, gradient<T, B>(ctx, {{5, 0}, {11, 2}}), {.learning_rate = 1}, d);
  CHECK(sgd.state(ctx).index == std::vector<stored_index_t>{5, 7, 11, 20, 39});
  CHECK(entries_of(d).at(11) == -2);

  SparseSgd<T, B> strict(ctx, rows, cols, {.capacity = 5, .overflow = Overflow::error});
  strict.step(ctx, gradient<T, B>(ctx, {{2, 1}, {5, 1}, {11, 1}, {20, 4}}), {}, d);
  const auto before = strict.state(ctx);
  const auto two = gradient<T, B>(ctx, {{1, 1}, {3, 1}});
  const std::string text =
      "the state holds 4 entries and S brings 2 new ones, expected at most the capacity 5 together (overflow "
      "policy error)";
  CHECK(message([&] { strict.check(ctx, two); }) == text);
  CHECK(message([&] { strict.step(ctx, two, {}, d); }) == text);
  CHECK(message([&] { strict.step(ctx, two, {.learning_rate = -1}, d); }) == text);
  CHECK(strict.state(ctx) == before);
}

TEST_CASE_TEMPLATE("after reserve no step takes scratch memory, eviction included", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  const auto run = [&](auto make) {
    typename B::Context ctx(1);
    auto optimizer = make(ctx);
    optimizer.reserve(ctx, 6);
    const index_t bytes = ctx.scratch().bytes();
    std::mt19937_64 bits(4);
    index_t evicted = 0;
    for (int t = 0; t < 20; ++t) {
      const auto s = gradient<T, B>(ctx, random_entries(bits, 6));
      SparseGradient<T, B> d(ctx, rows, cols, core_optimizer::update_capacity(optimizer, 6));
      core_optimizer::check(ctx, optimizer, s);
      core_optimizer::make_room(ctx, optimizer, s);
      evicted += optimizer.step(ctx, s, {}, d).evicted;
    }
    CHECK(evicted > 0);
    CHECK(ctx.scratch().bytes() == bytes);
  };
  run([](auto& ctx) {
    return SparseSgd<T, B>(ctx, rows, cols, {.capacity = 15, .overflow = Overflow::evict_smallest});
  });
  for (const AdamSemantics semantics :
       {AdamSemantics::torch, AdamSemantics::per_entry_step, AdamSemantics::dense_core}) {
    run([&](auto& ctx) {
      return SparseAdam<T, B>(ctx, rows, cols,
                              {.semantics = semantics, .capacity = 15, .overflow = Overflow::evict_smallest});
    });
  }
}

TEST_CASE_TEMPLATE("SparseSgd: rebase carries the momentum over, exactly between full bases", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  using Side = BasisSide<T, B>;
  using Basis = TuckerBasis<T, B>;
  typename B::Context ctx(1);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
  const auto plain = Basis::identity(rows, cols);
  const auto turned = Basis::from_sides(Side::random(ctx, rows, rows, 1), Side::random(ctx, cols, cols, 2));
  const auto cut = Basis::from_sides(Side::random(ctx, rows, 3, 1), Side::identity(cols));
  const SparseSgdOptions options{.momentum = 0.5};
  SparseSgd<T, B> sgd(ctx, rows, cols, options);
  std::mt19937_64 bits(5);
  for (int t = 0; t < 4; ++t) {
    SparseGradient<T, B> d(ctx, rows, cols, 12);
    sgd.step(ctx, gradient<T, B>(ctx, random_entries(bits, 12)), {}, d);
  }
  const OptimizerState<T> before = sgd.state(ctx);
  const auto expand = [&](const Basis& basis, const OptimizerState<T>& s) {
    std::vector<T> core = s.array("m");
    std::vector<T> matrix(static_cast<std::size_t>(rows * cols));
    basis.expand(ctx, MatrixView<const T>(core.data(), s.rows, s.cols), T(0),
                 MatrixView<T>(matrix.data(), rows, cols));
    return std::vector<double>(matrix.begin(), matrix.end());
  };

  // V m U^T is the same matrix, and there and back again is the same state.
  RebaseReport report = sgd.rebase(ctx, *plain, *turned, MomentsPolicy::transport, options);
  CHECK(report.lost_to_basis < 1e-5);
  CHECK(report.lost_to_capacity == 0);
  CHECK(report.entries == rows * cols);
  CHECK(sgd.steps() == 4);
  check_near(expand(*turned, sgd.state(ctx)), expand(*plain, before), tolerance);
  sgd.rebase(ctx, *turned, *plain, MomentsPolicy::transport, options);
  check_near(spread(sgd.state(ctx)), spread(before), tolerance);

  // Fewer directions keep what lies in them: m' = V'^T m, by loops.
  report = sgd.rebase(ctx, *plain, *cut, MomentsPolicy::transport, options);
  CHECK(sgd.rows() == 3);
  const std::vector<T> v = cut->out().host_factor(ctx);  // [3, rows]
  const std::vector<double> all = spread(before);
  std::vector<double> expected;
  double kept = 0;
  double energy = 0;
  for (index_t i = 0; i < 3; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      double sum = 0;
      for (index_t o = 0; o < rows; ++o)
        sum += static_cast<double>(v[static_cast<std::size_t>(i * rows + o)]) *
               all[static_cast<std::size_t>(o * cols + j)];
      expected.push_back(sum);
      kept += sum * sum;
    }
  }
  for (const double m : all)
    energy += m * m;
  check_near(spread(sgd.state(ctx)), expected, tolerance);
  CHECK(report.energy_before == doctest::Approx(energy).epsilon(1e-4));
  CHECK(report.lost_to_basis == doctest::Approx(1 - kept / energy).epsilon(1e-4));

  // A compact state stays as large as it was, with the largest moments.
  SparseSgdOptions compact = options;
  compact.capacity = 6;
  SparseSgd<T, B> few(ctx, rows, cols, compact);
  SparseGradient<T, B> d(ctx, rows, cols, 2);
  few.step(ctx, gradient<T, B>(ctx, {{0, 1}, {17, -3}}), {}, d);
  report = few.rebase(ctx, *plain, *turned, MomentsPolicy::transport, compact);
  CHECK(few.compact());
  CHECK(report.entries == 2);
  CHECK(report.lost_to_capacity > 0);

  report = few.rebase(ctx, *turned, *cut, MomentsPolicy::reset, compact);
  CHECK(few.rows() == 3);
  CHECK(few.size() == 0);
  CHECK(few.steps() == 0);
  CHECK(report.lost_to_basis == 1);

  const OptimizerState<T> state = few.state(ctx);
  CHECK(message([&] { few.rebase(ctx, *plain, *turned, MomentsPolicy::transport, compact); }) ==
        "the old basis's core is 6x8, expected 3x8 (rows x cols of the optimizer's core)");
  SparseSgdOptions other = compact;
  other.momentum = 0.75;
  CHECK(message([&] { few.rebase(ctx, *cut, *turned, MomentsPolicy::transport, other); }) ==
        "rebase: the options may differ from the optimizer's in capacity alone");
  CHECK(few.state(ctx) == state);
}

TEST_CASE_TEMPLATE("SparseSgd: a state from a file goes on bit by bit, one of another kind is refused", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  for (const index_t capacity : {0, 20}) {
    const SparseSgdOptions options{.momentum = 0.8, .nesterov = true, .capacity = capacity};
    SparseSgd<T, B> first(ctx, rows, cols, options);
    SparseSgd<T, B> second(ctx, rows, cols, options);
    std::mt19937_64 bits(9);
    const auto step = [&](SparseSgd<T, B>& sgd, const Entries& entries) {
      SparseGradient<T, B> d(ctx, rows, cols, 6);
      sgd.step(ctx, gradient<T, B>(ctx, entries), {}, d);
      return entries_of(d);
    };
    for (int t = 0; t < 3; ++t)
      step(first, random_entries(bits, 6));
    io::SafetensorsWriter writer;
    io::put(ctx, writer, "up.", first);
    SparseAdam<T, B> adam(ctx, rows, cols);
    io::put(ctx, writer, "adam.", adam);
    const io::SafetensorsFile file(io::FileBytes::from(writer.bytes()), "f");
    io::get(ctx, file, "up.", second);
    CHECK(second.state(ctx) == first.state(ctx));
    CHECK(second.compact() == (capacity > 0));
    const Entries next = random_entries(bits, 6);
    CHECK(step(first, next) == step(second, next));

    const OptimizerState<T> before = second.state(ctx);
    CHECK(message([&] { io::get(ctx, file, "adam.", second); }) ==
          "f: 'adam.': the saved state is a 'sparse_adam 1', expected a 'sparse_sgd 1'");
    CHECK(message([&] { io::get(ctx, file, "up.", adam); }) ==
          "f: 'up.': the saved state is a 'sparse_sgd 1', expected a 'sparse_adam 1'");
    CHECK(message([&] { io::get(ctx, file, "down.", second); }) ==
          "f: holds nothing under 'down.', expected an optimizer's state");
    SparseSgd<T, B> other(ctx, rows, cols, {.momentum = 0.5, .nesterov = true, .capacity = capacity});
    CHECK(message([&] { io::get(ctx, file, "up.", other); }) ==
          "f: 'up.': the saved state was made with momentum 0.8, expected 0.5");
    OptimizerState<T> bad = before;
    bad.array("m").pop_back();
    CHECK(message([&] { second.restore(ctx, bad); }).find("numbers in m, expected") != std::string::npos);
    CHECK(second.state(ctx) == before);
  }
  const std::string most = sizeof(T) == 4 ? "0.99999994" : "0.9999999999999999";
  CHECK(message([&] { SparseSgd<T, B>(ctx, rows, cols, {.momentum = 1}); }) ==
        "momentum is 1, expected 0 <= momentum <= " + most);
  CHECK(message([&] { SparseSgd<T, B>(ctx, rows, cols, {.momentum = std::nan("")}); }) ==
        "momentum is nan, expected 0 <= momentum <= " + most);
}

TEST_CASE("an optimizer with nothing optional: what the absence means, and its state in a file") {
  DefaultBackend::Context ctx(1);
  SignDescent sign(ctx, rows, cols, {});
  const auto s = gradient<float, DefaultBackend>(ctx, {{3, -2}, {17, 0.5}});
  CHECK(core_optimizer::update_capacity(sign, 7) == 7);
  core_optimizer::reserve(ctx, sign, 7);
  core_optimizer::make_room(ctx, sign, s);
  core_optimizer::check(ctx, sign, s);
  const SparseGradient<float> other(ctx, cols, rows, 2);
  CHECK(message([&] { core_optimizer::check(ctx, sign, other); }) ==
        "S is 8x6, expected 6x8 (rows x cols of the optimizer's core)");
  SparseGradient<float> d(ctx, rows, cols, 2);
  CHECK(sign.step(ctx, s, {.learning_rate = 0.5}, d).updated == 2);
  CHECK(entries_of(d) == Entries{{3, 0.5}, {17, -0.5}});

  io::SafetensorsWriter writer;
  io::put_state(writer, "up.", sign.state(ctx));
  const io::SafetensorsFile file(io::FileBytes::from(writer.bytes()), "f");
  SignDescent again(ctx, rows, cols, {});
  again.restore(ctx, io::get_state<float>(file, "up."));
  CHECK(again.steps() == 1);
  CHECK(again.state(ctx) == sign.state(ctx));
}
