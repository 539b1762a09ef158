// The contract of a BatchedBackend (core/backend.hpp): every batched primitive does to many arrays what the primitive
// for one does to each, with the same bits. To be included after contract.hpp.
#pragma once

#include "contract.hpp"

namespace sparsegrad::test {

static_assert(BatchedBackend<ContractBackend>);

// More tasks than one launch holds, of very different sizes, some empty.
constexpr index_t many = 150;
inline index_t batch_size(index_t t) {
  constexpr index_t sizes[] = {1, 0, 7, 300, 2047, 2049, 20011, 5, 0, 8193};
  return sizes[t % 10];
}

TEST_CASE_TEMPLATE("top_k_batched: as top_k, array by array", T, float, double) {
  Random random(31);
  std::vector<std::vector<T>> x, value;
  std::vector<std::vector<stored_index_t>> index;
  std::vector<TopKTask<T>> tasks;
  for (index_t t = 0; t < many; ++t) {
    x.push_back(normal_values<T>(random, batch_size(t)));
    if (t % 4 == 1)  // ties, which only positions tell apart
      for (T& v : x.back())
        v = static_cast<T>(static_cast<int>(v));
    if (t == 36) x.back()[20010] = std::numeric_limits<T>::quiet_NaN();
    // Few entries of some, most of others, side by side.
    const index_t k = t % 7 == 3 ? batch_size(t) / 80 : batch_size(t) * (t % 6) / 5;
    value.emplace_back(static_cast<std::size_t>(k) + 1, T(-77.25));
    index.emplace_back(static_cast<std::size_t>(k) + 1, -7);
  }
  for (std::size_t t = 0; t < x.size(); ++t) {
    const auto n = static_cast<index_t>(x[t].size());
    const auto k = static_cast<index_t>(value[t].size()) - 1;
    const bool copied = k == n && t % 12 == 5;
    tasks.push_back({x[t].data(), n, k, copied ? nullptr : index[t].data(), value[t].data()});
  }
  Context ctx(2);
  B::template top_k_batched<T>(ctx, std::span<const TopKTask<T>>(tasks));
  index_t copies = 0;
  for (std::size_t t = 0; t < x.size(); ++t) {
    CAPTURE(t);
    const auto k = static_cast<index_t>(value[t].size()) - 1;
    const auto expected = expected_top_k(x[t], k);
    CHECK((index[t].back() == -7 && value[t].back() == T(-77.25)));
    if (tasks[t].index == nullptr) {
      ++copies;
    } else {
      index[t].pop_back();
      CHECK(index[t] == expected);
    }
    bool same = true;
    for (std::size_t e = 0; e < expected.size(); ++e)
      same = same && std::memcmp(&value[t][e], &x[t][static_cast<std::size_t>(expected[e])], sizeof(T)) == 0;
    CHECK(same);
  }
  CHECK(copies > 5);
  B::template top_k_batched<T>(ctx, {});
}

TEST_CASE_TEMPLATE("adam_batched: as adam, state by state, updates at their places", T, float, double) {
  Random random(32);
  struct State {
    std::vector<T> g, m, v, d;
    std::vector<stored_index_t> entry;
    std::vector<std::int32_t> count;
  };
  std::vector<State> states;
  for (index_t t = 0; t < many; ++t) {
    State s;
    s.g = normal_values<T>(random, batch_size(t));
    const index_t size = t % 3 == 0 ? batch_size(t) : 2 * batch_size(t) + 1;
    if (t % 3 != 0) s.entry = random_support(random, size, batch_size(t));
    s.m = normal_values<T>(random, size);
    s.v.assign(s.m.size(), T(0.5));
    s.d.assign(s.m.size(), T(5));
    if (t % 2 == 1) s.count.assign(s.m.size(), static_cast<std::int32_t>(t));
    states.push_back(std::move(s));
  }
  std::vector<State> single = states;
  std::vector<std::int64_t> counters(many, 0);
  AdamCoefficients c;
  c.learning_rate = 2e-3;
  c.grad_scale = 0.25;
  c.eps_uncorrected = true;
  c.step = 999;  // not a task's
  Context ctx(2);
  for (std::int64_t step = 1; step <= 3; ++step) {
    std::vector<AdamTask<T>> tasks;
    for (std::size_t t = 0; t < states.size(); ++t) {
      State& s = states[t];
      AdamTask<T> task{s.g.data(),
                       s.entry.empty() ? nullptr : s.entry.data(),
                       static_cast<index_t>(s.g.size()),
                       s.m.data(),
                       s.v.data(),
                       s.count.empty() ? nullptr : s.count.data(),
                       s.d.data(),
                       step + static_cast<std::int64_t>(t),
                       nullptr};
      if (t % 5 == 2) {  // counted in memory, whatever `step` says
        task.step = -1;
        if (step == 1) counters[t] = static_cast<std::int64_t>(t);
        task.counter = &counters[t];
      }
      if (t % 6 == 0) task.g = s.d.data();  // in place; those have no `entry`
      if (t % 6 == 0) s.d = s.g;
      tasks.push_back(task);
    }
    B::template adam_batched<T>(ctx, c, std::span<const AdamTask<T>>(tasks));
    for (std::size_t t = 0; t < single.size(); ++t) {
      CAPTURE(t);
      State& s = single[t];
      const auto k = static_cast<index_t>(s.g.size());
      std::vector<T> d(s.g.size());
      AdamCoefficients own = c;
      own.step = step + static_cast<std::int64_t>(t);
      B::template adam<T>(ctx, own, s.g.data(), s.entry.empty() ? nullptr : s.entry.data(), k, s.m.data(),
                          s.v.data(), s.count.empty() ? nullptr : s.count.data(), d.data());
      for (std::size_t e = 0; e < d.size(); ++e)
        s.d[s.entry.empty() ? e : static_cast<std::size_t>(s.entry[e])] = d[e];
      CHECK(same_bits(s.d, states[t].d));
      CHECK(same_bits(s.m, states[t].m));
      CHECK(same_bits(s.v, states[t].v));
      CHECK(s.count == states[t].count);
    }
  }
  for (std::size_t t = 2; t < counters.size(); t += 5)
    CHECK(counters[t] == static_cast<std::int64_t>(t) + 3);
}

TEST_CASE_TEMPLATE("zero_batched, first_nonfinite_batched", T, float, double) {
  Random random(33);
  std::vector<std::vector<T>> x;
  for (index_t t = 0; t < many; ++t)
    x.push_back(normal_values<T>(random, batch_size(t) + 1));
  std::vector<MatrixView<const T>> views;
  std::vector<MatrixView<T>> targets;
  for (std::size_t t = 0; t < x.size(); ++t) {
    const auto n = static_cast<index_t>(x[t].size()) - 1;
    views.push_back(MatrixView<const T>(x[t].data(), 1, n));
    if (t % 2 == 0) targets.push_back(MatrixView<T>(x[t].data(), 1, n));
  }
  const auto first = [&](Context& ctx) {
    return B::template first_nonfinite_batched<T>(ctx, std::span<const MatrixView<const T>>(views));
  };
  Context ctx(2);
  x[4].back() = std::numeric_limits<T>::quiet_NaN();  // beyond the array
  CHECK(first(ctx) == -1);
  x[146][4321] = std::numeric_limits<T>::infinity();
  CHECK(first(ctx) == 146);
  x[63][299] = std::numeric_limits<T>::quiet_NaN();
  CHECK(first(ctx) == 63);
  x[0][0] = -std::numeric_limits<T>::infinity();
  CHECK(first(ctx) == 0);

  const std::vector<std::vector<T>> before = x;
  B::template zero_batched<T>(ctx, std::span<const MatrixView<T>>(targets));
  for (std::size_t t = 0; t < x.size(); ++t) {
    std::vector<T> expected = before[t];
    if (t % 2 == 0) std::fill(expected.begin(), expected.end() - 1, T(0));
    CHECK(same_bits(x[t], expected));
  }
}

TEST_CASE_TEMPLATE("squared_norm_batched: as squared_norm, array by array", T, float, double) {
  Random random(35);
  Context ctx(2);
  std::vector<PaddedMatrix<T>> arrays;
  std::vector<MatrixView<const T>> views;
  for (index_t t = 0; t < many; ++t) {
    const index_t rows = t % 3 == 0 ? 1 : 7;
    arrays.push_back(PaddedMatrix<T>(rows, batch_size(t) / rows, t % 5).fill(random));
  }
  for (const PaddedMatrix<T>& a : arrays)
    views.push_back(a.const_view());
  std::vector<double> norms(arrays.size() + 1, -1.0);
  B::template squared_norm_batched<T>(ctx, std::span<const MatrixView<const T>>(views), norms.data());
  std::vector<double> expected;
  for (const MatrixView<const T>& view : views)
    expected.push_back(B::template squared_norm<T>(ctx, view));
  expected.push_back(-1);
  CHECK(norms == expected);
  B::template squared_norm_batched<T>(ctx, {}, norms.data());
}

TEST_CASE_TEMPLATE("batch_scratch_bound covers what they take", T, float, double) {
  Random random(34);
  const index_t n = 70000;
  const index_t arrays = 40;
  const std::vector<T> x = normal_values<T>(random, n);
  std::vector<std::vector<stored_index_t>> index(arrays, std::vector<stored_index_t>(n));
  std::vector<std::vector<T>> value(arrays, std::vector<T>(n));
  std::vector<TopKTask<T>> tasks;
  for (const index_t k : {n / 3, n / 100}) {
    tasks.clear();
    for (std::size_t t = 0; t < index.size(); ++t)
      tasks.push_back({x.data(), n, k, index[t].data(), value[t].data()});
    Context own(1);
    B::template top_k_batched<T>(own, std::span<const TopKTask<T>>(tasks));
    CHECK(own.scratch().bytes() > 0);
    CHECK(own.scratch().bytes() <= B::template batch_scratch_bound<T>(own, arrays, arrays * n));
    const std::vector<MatrixView<const T>> views(arrays, MatrixView<const T>(x.data(), 1, n));
    std::vector<double> norms(arrays);
    B::template squared_norm_batched<T>(own, std::span<const MatrixView<const T>>(views), norms.data());
    CHECK(own.scratch().bytes() <= B::template batch_scratch_bound<T>(own, arrays, arrays * n));
  }
}

}  // namespace sparsegrad::test
