// Methods of the field written on the public API alone (examples/methods), against plain loops.
#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "../../examples/methods/fira.hpp"
#include "../../examples/methods/largest_columns.hpp"
#include "../../examples/methods/lift_support.hpp"
#include "../../examples/methods/lion.hpp"

using namespace sparsegrad;

namespace {

using B = backend::Reference;
using Grid = std::vector<std::vector<double>>;
constexpr int n_out = 9, n_in = 8;
constexpr double lr = 0.05, scale = 0.5;

Grid grid(int rows, int cols) {
  return Grid(static_cast<std::size_t>(rows), std::vector<double>(static_cast<std::size_t>(cols)));
}
Grid random_grid(unsigned seed) {
  std::mt19937_64 random(seed);
  Grid a = grid(n_out, n_in);
  for (auto& row : a)
    for (double& x : row)
      x = static_cast<double>(random() >> 11) * 0x1p-53 - 0.5;
  return a;
}
void flatten(const Grid& a, std::vector<double>& flat) {
  flat.clear();
  for (const auto& row : a)
    flat.insert(flat.end(), row.begin(), row.end());
}
double difference(const Grid& a, const std::vector<double>& flat) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[i].size(); ++j)
      most = std::max(most, std::abs(a[i][j] - flat[i * a[i].size() + j]));
  return most;
}
Grid product(const Grid& a, const Grid& b) {
  Grid c = grid(static_cast<int>(a.size()), static_cast<int>(b[0].size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < b[0].size(); ++j)
      for (std::size_t l = 0; l < b.size(); ++l)
        c[i][j] += a[i][l] * b[l][j];
  return c;
}
Grid transposed(const Grid& a) {
  Grid b = grid(static_cast<int>(a[0].size()), static_cast<int>(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[0].size(); ++j)
      b[j][i] = a[i][j];
  return b;
}
Grid minus(Grid a, const Grid& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[i].size(); ++j)
      a[i][j] -= b[i][j];
  return a;
}
/// The matrix of one side, column by column, as the side itself gives it.
Grid matrix_of(B::Context& ctx, const BasisSide<double, B>& side) {
  const auto n = static_cast<int>(side.extent()), r = static_cast<int>(side.rank());
  std::vector<double> unit(static_cast<std::size_t>(n * n)), u(static_cast<std::size_t>(n * r));
  for (int i = 0; i < n; ++i)
    unit[static_cast<std::size_t>(i * n + i)] = 1;
  side.project_columns(ctx, MatrixView<const double>(unit.data(), n, n), MatrixView<double>(u.data(), n, r));
  Grid a = grid(n, r);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < r; ++j)
      a[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] = u[static_cast<std::size_t>(i * r + j)];
  return a;
}

/// Best approximation of W of rank r, by power iteration and deflation.
Grid best_approximation(const Grid& w, int rank) {
  Grid rest = w, sum = grid(n_out, n_in);
  for (int n = 0; n < rank; ++n) {
    Grid v = grid(n_in, 1);
    for (std::size_t j = 0; j < v.size(); ++j)
      v[j][0] = 1 + 0.3 * static_cast<double>(j);
    for (int turn = 0; turn < 3000; ++turn) {
      v = product(transposed(rest), product(rest, v));
      double norm = 0;
      for (const auto& x : v)
        norm += x[0] * x[0];
      for (auto& x : v)
        x[0] /= std::sqrt(norm);
    }
    const Grid part = product(product(rest, v), transposed(v));
    rest = minus(rest, part);
    sum = minus(sum, minus(grid(n_out, n_in), part));
  }
  return sum;
}

/// Adam of the entries in a state that remembers those of the last step alone; torch's rule, global bias correction.
struct AdamOfLastSupport {
  std::map<std::pair<int, int>, std::pair<double, double>> moments;
  int steps = 0;

  double update(const std::map<std::pair<int, int>, std::pair<double, double>>& old, int i, int j, double g) {
    auto [m, v] = old.count({i, j}) > 0 ? old.at({i, j}) : std::pair(0.0, 0.0);
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    moments[{i, j}] = {m, v};
    const double root = std::sqrt(1 - std::pow(0.999, steps));
    return -lr * root / (1 - std::pow(0.9, steps)) * m / (std::sqrt(v) + 1e-8);
  }
  /// Entries of `core` at `support`; the updates of all, 0 elsewhere.
  Grid step(const Grid& core, const std::set<std::pair<int, int>>& support) {
    ++steps;
    const auto old = std::exchange(moments, {});
    Grid d = grid(static_cast<int>(core.size()), static_cast<int>(core[0].size()));
    for (const auto& [i, j] : support) {
      const auto r = static_cast<std::size_t>(i), c = static_cast<std::size_t>(j);
      d[r][c] = update(old, i, j, scale * core[r][c]);
    }
    return d;
  }
};

/// A weight whose gradient is W - target + noise of the step, in a group with this optimizer.
template <class Optimizer>
struct Run {
  B::Context ctx;
  std::vector<double> w, dw = std::vector<double>(n_out * n_in);
  SparseGradGroup<double, B, Optimizer> group;

  explicit Run(typename SparseGradGroup<double, B, Optimizer>::Options options) : group(std::move(options)) {
    flatten(random_grid(1), w);
    group.add_weight(ctx, {w.data(), n_out, n_in}, "w", {.gradient = {dw.data(), n_out, n_in}});
  }
  GroupReport step(const Grid& gradient) {
    std::copy_n(
        [&] {
          std::vector<double> flat;
          flatten(gradient, flat);
          return flat;
        }()
            .begin(),
        n_out * n_in, dw.begin());
    return group.step(ctx, {.learning_rate = lr, .grad_scale = scale});
  }
};
Grid gradient_of(const Grid& w, int step) {
  return minus(minus(w, random_grid(2)), random_grid(static_cast<unsigned>(10 + step)));
}
template <class Options>
Options evicting(index_t entries) {
  Options options{.entries = entries};
  options.optimizer.overflow = Overflow::evict_smallest;
  options.capacity_factor = 1;
  return options;
}

}  // namespace

TEST_CASE("field methods: LIFT's support comes from the weight, and moments stay on the overlap") {
  constexpr int rank = 2, k = 20, period = 3;
  using Group = SparseGradGroup<double, B>;
  const auto make = [&] {
    auto run = std::make_unique<Run<SparseAdam<double, B>>>(evicting<Group::Options>(k));
    run->group.use_selector(run->ctx, 0,
                            methods::LiftSupport<double, B>({run->w.data(), n_out, n_in}, rank, period));
    return run;
  };
  const auto run = make();
  Grid w = random_grid(1);
  AdamOfLastSupport adam;
  std::set<std::pair<int, int>> support;
  int changes = 0;
  std::vector<double> w_saved;
  Group::State saved;
  for (int step = 0; step < 14; ++step) {
    if (step == 8) {  // in the middle of a period
      saved = run->group.state(run->ctx);
      w_saved = run->w;
    }
    if (step % period == 0) {
      const Grid low = best_approximation(w, rank);
      std::vector<std::pair<double, std::pair<int, int>>> sizes;
      for (int i = 0; i < n_out; ++i)
        for (int j = 0; j < n_in; ++j)
          sizes.push_back({-std::abs(low[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]), {i, j}});
      std::sort(sizes.begin(), sizes.end());
      REQUIRE(sizes[k].first - sizes[k - 1].first > 1e-6);  // no tie decides
      std::set<std::pair<int, int>> next;
      for (int e = 0; e < k; ++e)
        next.insert(sizes[static_cast<std::size_t>(e)].second);
      std::vector<std::pair<int, int>> common;
      std::set_intersection(support.begin(), support.end(), next.begin(), next.end(),
                            std::back_inserter(common));
      if (step > 0 && next != support && !common.empty()) ++changes;
      support = next;
    }
    const Grid g = gradient_of(w, step);
    const GroupReport report = run->step(g);
    CHECK(report.kept == k);
    const Grid d = adam.step(g, support);
    w = minus(w, minus(grid(n_out, n_in), d));
    CAPTURE(step);
    CHECK(difference(w, run->w) < 1e-12);
  }
  CHECK(changes >= 2);

  const auto resumed = make();
  resumed->w = w_saved;
  resumed->group.restore(resumed->ctx, saved);
  for (int step = 8; step < 14; ++step) {
    Grid now = grid(n_out, n_in);
    for (int e = 0; e < n_out * n_in; ++e)
      now[static_cast<std::size_t>(e / n_in)][static_cast<std::size_t>(e % n_in)] =
          resumed->w[static_cast<std::size_t>(e)];
    resumed->step(gradient_of(now, step));
  }
  CHECK(difference(w, resumed->w) < 1e-12);
}

TEST_CASE("field methods: the largest columns of G Q train, and moments are copied exactly") {
  constexpr int r = 3;
  using Group = SparseGradGroup<double, B>;
  Run<SparseAdam<double, B>> run(evicting<Group::Options>(n_out * r));
  run.group.set_basis(run.ctx, 0,
                      TuckerBasis<double, B>::from_recipes(run.ctx, n_out, n_in, SideRecipe::identity(),
                                                           SideRecipe::hadamard()));
  run.group.use_selector(methods::LargestColumns{r});
  const Grid q = matrix_of(run.ctx, run.group.basis(0)->in());
  CHECK(difference(product(transposed(q), q), [] {
          std::vector<double> unit(n_in * n_in);
          for (int i = 0; i < n_in; ++i)
            unit[static_cast<std::size_t>(i * n_in + i)] = 1;
          return unit;
        }()) < 1e-12);

  Grid w = random_grid(1);
  AdamOfLastSupport adam;
  std::set<int> before;
  int partial_changes = 0;
  for (int step = 0; step < 25; ++step) {
    const Grid g = gradient_of(w, step);
    const Grid core = product(g, q);
    std::set<int> chosen;
    while (chosen.size() < r) {
      int best = -1;
      double most = -1;
      for (int j = 0; j < n_in; ++j) {
        double norm = 0;
        for (const auto& row : core)
          norm += std::pow(row[static_cast<std::size_t>(j)], 2);
        if (chosen.count(j) == 0 && norm > most) {
          most = norm;
          best = j;
        }
      }
      chosen.insert(best);
    }
    std::vector<int> common;
    std::set_intersection(before.begin(), before.end(), chosen.begin(), chosen.end(),
                          std::back_inserter(common));
    if (!common.empty() && common.size() < r) ++partial_changes;
    before = chosen;

    std::set<std::pair<int, int>> support;
    for (int i = 0; i < n_out; ++i)
      for (const int j : chosen)
        support.insert({i, j});
    const GroupReport report = run.step(g);
    CHECK(report.kept == n_out * r);
    if (step > 0) CHECK(report.evicted == n_out * (r - static_cast<int>(common.size())));
    const Grid d = product(adam.step(core, support), transposed(q));
    w = minus(w, minus(grid(n_out, n_in), d));
    CAPTURE(step);
    CHECK(difference(w, run.w) < 1e-12);
  }
  CHECK(partial_changes >= 5);
}

TEST_CASE("field methods: Fira uses the rest of the gradient, and limits its growth") {
  constexpr int rank = 3;
  using Fira = methods::Fira<double, B>;
  using Group = SparseGradGroup<double, B, Fira>;
  const auto basis = [](B::Context& ctx) {
    return TuckerBasis<double, B>::from_recipes(ctx, n_out, n_in, SideRecipe::random(rank),
                                                SideRecipe::identity());
  };
  Run<Fira> run(Group::Options{.density = 1});
  run.group.set_basis(run.ctx, 0, basis(run.ctx));
  const Grid p = transposed(matrix_of(run.ctx, run.group.basis(0)->out()));  // [rank, out]
  std::vector<double> turned;  // the same weight, stored [in, out]
  flatten(transposed(random_grid(1)), turned);
  Group turned_group(Group::Options{.density = 1});
  turned_group.add_weight(run.ctx, {turned.data(), n_in, n_out}, "w", {.layout = WeightLayout::in_out});
  turned_group.set_basis(run.ctx, 0, run.group.basis(0));
  Grid w = random_grid(1), m = grid(rank, n_in), v = grid(rank, n_in);
  double last = 0;
  int limited = 0, free = 0;
  std::vector<double> w_saved;
  Group::State saved;
  for (int step = 1; step <= 12; ++step) {
    if (step == 7) {
      saved = run.group.state(run.ctx);
      w_saved = run.w;
    }
    Grid g = gradient_of(w, step);
    for (auto& row : g)
      for (double& x : row)
        x *= step % 3 == 0 ? 4 : 1;
    run.step(g);
    turned_group.set_gradient(0, {run.dw.data(), n_out, n_in}, WeightLayout::out_in);
    turned_group.step(run.ctx, {.learning_rate = lr, .grad_scale = scale});
    // The paper's form: G is what Adam sees, psi and S apart, W -= lr (P psi + S).
    for (auto& row : g)
      for (double& x : row)
        x *= scale;
    const Grid core = product(p, g);
    Grid psi = grid(rank, n_in);
    for (std::size_t a = 0; a < rank; ++a)
      for (std::size_t j = 0; j < n_in; ++j) {
        m[a][j] += 0.1 * (core[a][j] - m[a][j]);
        v[a][j] += 0.001 * (core[a][j] * core[a][j] - v[a][j]);
        psi[a][j] = m[a][j] / (1 - std::pow(0.9, step)) /
                    ((std::sqrt(v[a][j]) + 1e-8) / std::sqrt(1 - std::pow(0.999, step)));
      }
    Grid s = minus(g, product(transposed(p), core));
    double energy = 0;
    for (std::size_t j = 0; j < n_in; ++j) {
      double above = 0, below = 0;
      for (std::size_t a = 0; a < rank; ++a) {
        above += psi[a][j] * psi[a][j];
        below += core[a][j] * core[a][j];
      }
      for (std::size_t i = 0; i < n_out; ++i) {
        s[i][j] *= std::sqrt(above) / std::sqrt(below);
        energy += s[i][j] * s[i][j];
      }
    }
    double norm = std::sqrt(energy), limiter = 1;
    if (step > 1 && norm / last > 1.01) {
      limiter = norm / last / 1.01;
      ++limited;
    } else {
      ++free;
    }
    last = norm / limiter;
    const Grid inside = product(transposed(p), psi);
    for (std::size_t i = 0; i < n_out; ++i)
      for (std::size_t j = 0; j < n_in; ++j)
        w[i][j] -= lr * (inside[i][j] + s[i][j] / limiter);
    CAPTURE(step);
    CHECK(difference(w, run.w) < 1e-12);
    CHECK(difference(transposed(w), turned) < 1e-12);
  }
  CHECK(limited >= 2);
  CHECK(free >= 2);

  Run<Fira> resumed(Group::Options{.density = 1});
  resumed.w = w_saved;
  resumed.group.restore(resumed.ctx, saved);
  for (int step = 7; step <= 12; ++step) {
    Grid now = grid(n_out, n_in);
    for (int e = 0; e < n_out * n_in; ++e)
      now[static_cast<std::size_t>(e / n_in)][static_cast<std::size_t>(e % n_in)] =
          resumed.w[static_cast<std::size_t>(e)];
    Grid g = gradient_of(now, step);
    for (auto& row : g)
      for (double& x : row)
        x *= step % 3 == 0 ? 4 : 1;
    resumed.step(g);
  }
  CHECK(difference(w, resumed.w) < 1e-12);
}

TEST_CASE(
    "field methods: an optimizer of the rest refuses a step without the whole gradient, and nothing moves") {
  using Fira = methods::Fira<double, B>;
  using Group = SparseGradGroup<double, B, Fira>;
  B::Context ctx;
  std::vector<double> w(n_out * n_in, 1.0), transposed_dw(n_in * n_out, 1.0), dw(n_out * n_in, 1.0);
  Group group({.density = 1});
  group.add_weight(ctx, {w.data(), n_out, n_in}, "w");
  group.set_gradient(0, {transposed_dw.data(), n_in, n_out}, WeightLayout::in_out);
  CHECK_THROWS_AS(group.step(ctx, {.learning_rate = lr}), StateError);
  CHECK(w == std::vector<double>(n_out * n_in, 1.0));
  CHECK(group.optimizer(0).steps() == 0);
  group.clear(ctx);

  group.use_reduce([](B::Context&, MatrixView<double>) {});
  group.set_gradient(0, {dw.data(), n_out, n_in});
  CHECK_THROWS_AS(group.step(ctx, {.learning_rate = lr}), StateError);
  CHECK(group.optimizer(0).steps() == 0);
  group.clear(ctx);
  group.use_reduce(nullptr);
  group.set_gradient(0, {dw.data(), n_out, n_in});
  group.step(ctx, {.learning_rate = lr});
  CHECK(group.optimizer(0).steps() == 1);
}

TEST_CASE("field methods: Lion on the entries, with an exact transport between full bases") {
  using Lion = methods::Lion<double, B>;
  using Group = SparseGradGroup<double, B, Lion>;
  constexpr int k = 15;
  for (const double factor : {0.0, 1.0}) {
    CAPTURE(factor);
    Group::Options options{.entries = k, .capacity_factor = factor};
    options.optimizer.overflow = Overflow::evict_smallest;
    Run<Lion> run(options);
    Grid q = matrix_of(run.ctx, run.group.basis(0)->in());
    Grid w = random_grid(1);
    Grid m = grid(n_out, n_in);
    for (int step = 0; step < 12; ++step) {
      if (step == 6 && factor == 0) {  // m in the new basis is m Q_old^T Q_new
        run.group.set_basis(run.ctx, 0,
                            TuckerBasis<double, B>::from_recipes(run.ctx, n_out, n_in, SideRecipe::identity(),
                                                                 SideRecipe::random()),
                            MomentsPolicy::transport);
        const Grid next = matrix_of(run.ctx, run.group.basis(0)->in());
        m = product(product(m, transposed(q)), next);
        q = next;
      }
      const Grid g = gradient_of(w, step);
      const Grid core = product(g, q);
      std::vector<double> sizes;
      for (const auto& row : core)
        for (const double x : row)
          sizes.push_back(std::abs(x));
      std::sort(sizes.rbegin(), sizes.rend());
      run.step(g);
      Grid d = grid(n_out, n_in);
      for (std::size_t i = 0; i < n_out; ++i)
        for (std::size_t j = 0; j < n_in; ++j) {
          if (std::abs(core[i][j]) < sizes[k - 1]) {
            if (factor == 1) m[i][j] = 0;  // forgotten: the state has room for one support
            continue;
          }
          const double x = scale * core[i][j], c = 0.9 * m[i][j] + 0.1 * x;
          d[i][j] = c > 0 ? lr : -lr;
          m[i][j] = 0.99 * m[i][j] + 0.01 * x;
        }
      w = minus(w, product(d, transposed(q)));
      CAPTURE(step);
      CHECK(difference(w, run.w) < 1e-12);
    }
    CHECK(run.group.optimizer(0).compact() == (factor == 1));
    const auto saved = run.group.state(run.ctx);
    Run<Lion> resumed(options);
    resumed.group.restore(resumed.ctx, saved);
    CHECK(resumed.group.optimizer(0).state(resumed.ctx) == run.group.optimizer(0).state(run.ctx));
  }
}
