// Passes of the layers in the host's memory against plain loops in double, at lengths around those of vectors.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "models/host_backend.hpp"

#include "models/layers/host/layer_ops.hpp"
#include "models/layers/random.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune {

namespace {

using Ops = LayerOps<HostBackend>;

template <class T>
std::vector<T> random_numbers(index_t n, std::uint64_t seed) {
  std::vector<T> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<T>(static_cast<float>(normal_at(seed, i)));
  return x;
}

double value(double x) {
  return x;
}
double value(bfloat16 x) {
  return static_cast<double>(static_cast<float>(x));
}

}  // namespace

TEST_CASE_TEMPLATE("sums and maxima of every length", T, float, double) {
  for (index_t n = 1; n < 140; ++n) {
    CAPTURE(n);
    const std::vector<T> x = random_numbers<T>(n, 3);
    double sum = 0;
    for (const T v : x)
      sum += static_cast<double>(v);
    const T* const data = x.data();
    CHECK(static_cast<double>(sum_of<T>(n, [=](auto at) { return at.load(data); })) ==
          doctest::Approx(sum).epsilon(1e-4));
    CHECK(max_of(data, n) == *std::max_element(x.begin(), x.end()));
  }
}

TEST_CASE("packs of a mask are its elements") {
  const Dropout<float> dropout(0.3, 77);
  const auto mask = mask_row(dropout, 5);
  constexpr index_t width = Simd<float>::width;
  for (index_t j = 0; j < 5 * width; j += width) {
    const Pack<float> pack = mask(PackAt<float>{j});
    for (index_t l = 0; l < width; ++l)
      CHECK(pack[l] == dropout.row(5).at(j + l));
  }
}

TEST_CASE_TEMPLATE("columns of a mask are its elements", T, float, double) {
  const Dropout<T> dropout(0.3, 77);
  constexpr index_t rows = 21;
  const MaskColumns<T, 32> mask(dropout, 5, rows);
  constexpr index_t width = Simd<T>::width;
  for (index_t lane = 0; lane < rows; lane += width) {
    for (index_t column = 0; column < 40; ++column) {
      const Pack<T> pack = mask(column, lane);
      for (index_t l = 0; l < std::min(width, rows - lane); ++l)
        CHECK(pack[l] == dropout.row(5 + lane + l).at(column));
    }
  }
}

TEST_CASE_TEMPLATE("attention is that of plain loops, for sequences of any length", T, float, double,
                   bfloat16) {
  using C = compute_t<T>;
  const double tolerance = is_low_precision<T> ? 0.03 : 2e-5;
  HostBackend::Context ctx(2);
  for (const index_t head_size : {index_t{5}, index_t{32}}) {
    const AttentionShape shape{2, head_size};
    const index_t hidden = 2 * head_size;
    Batch batch;
    for (const index_t length : {1, 2, 3, 4, 7, 11, 16, 17, 31, 50}) {
      const auto n = static_cast<std::size_t>(length);
      batch.add(std::vector<std::int32_t>(n, 1), std::vector<std::int32_t>(n, 0), 0);
    }
    const index_t tokens = batch.tokens();
    PlacedBatch<HostBackend> placed;
    placed.reserve(ctx, tokens, batch.sequences());
    placed.place(ctx, batch, false);
    std::vector<T> qkv = random_numbers<T>(tokens * 3 * hidden, 1);
    const std::vector<C> bias = random_numbers<C>(3 * hidden, 2);
    const std::vector<T> d_out = random_numbers<T>(tokens * hidden, 4);
    const Dropout<C> dropout(0.2, 9);
    // Before forward adds the bias; a product reads what was rounded to T.
    std::vector<double> x(qkv.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t column = i % static_cast<std::size_t>(3 * hidden);
      const double sum = value(qkv[i]) + static_cast<double>(bias[column]);
      const double factor =
          column < static_cast<std::size_t>(hidden) ? 1 / std::sqrt(static_cast<double>(head_size)) : 1.0;
      x[i] = value(static_cast<T>(static_cast<C>(sum * factor)));
    }
    std::vector<T> out(static_cast<std::size_t>(tokens * hidden)), d_qkv(qkv.size());
    std::vector<C> log_sums(static_cast<std::size_t>(2 * tokens));
    std::vector<C> work(
        static_cast<std::size_t>(Ops::attention_work<T>(ctx, shape, tokens, batch.longest())));
    Ops::attention_forward<T>(ctx, shape, placed, bias.data(), dropout,
                              MatrixView<T>(qkv.data(), tokens, 3 * hidden),
                              MatrixView<T>(out.data(), tokens, hidden), log_sums.data(), work.data());
    Ops::attention_backward<T>(ctx, shape, placed, dropout, MatrixView<T>(qkv.data(), tokens, 3 * hidden),
                               MatrixView<T>(out.data(), tokens, hidden), log_sums.data(),
                               MatrixView<const T>(d_out.data(), tokens, hidden),
                               MatrixView<T>(d_qkv.data(), tokens, 3 * hidden), work.data());

    double largest = 0;
    const auto compare = [&](double found, double wanted) {
      largest = std::max(largest, std::abs(found - wanted) / (1 + std::abs(wanted)));
    };
    for (index_t head = 0; head < 2; ++head) {
      for (std::size_t s = 0; s < batch.lengths.size(); ++s) {
        const index_t first = batch.offsets[s];
        const index_t n = batch.lengths[s];
        const auto at = [&](index_t row, int part, index_t c) {
          return x[static_cast<std::size_t>((first + row) * 3 * hidden + part * hidden + head * head_size +
                                            c)];
        };
        const auto place = [&](index_t row, index_t c) {
          return static_cast<std::size_t>((first + row) * hidden + head * head_size + c);
        };
        std::vector<double> dk(static_cast<std::size_t>(n * head_size)), dv(dk.size());
        for (index_t i = 0; i < n; ++i) {
          std::vector<double> p(static_cast<std::size_t>(n));
          double top = -1e300, sum = 0;
          for (index_t j = 0; j < n; ++j) {
            for (index_t c = 0; c < head_size; ++c)
              p[static_cast<std::size_t>(j)] += at(i, 0, c) * at(j, 1, c);
            top = std::max(top, p[static_cast<std::size_t>(j)]);
          }
          for (double& v : p)
            sum += v = std::exp(v - top);
          compare(static_cast<double>(log_sums[static_cast<std::size_t>(head * tokens + first + i)]),
                  top + std::log(sum));
          const auto mask = dropout.row(head * tokens + first + i);
          std::vector<double> o(static_cast<std::size_t>(head_size)), dp(p.size());
          double mean = 0;
          for (index_t j = 0; j < n; ++j) {
            const auto e = static_cast<std::size_t>(j);
            p[e] /= sum;
            const auto kept = static_cast<double>(mask.at(j));
            for (index_t c = 0; c < head_size; ++c) {
              const auto column = static_cast<std::size_t>(c);
              o[column] += p[e] * kept * at(j, 2, c);
              dp[e] += value(d_out[place(i, c)]) * kept * at(j, 2, c);
              dv[static_cast<std::size_t>(j * head_size + c)] += p[e] * kept * value(d_out[place(i, c)]);
            }
            mean += p[e] * dp[e];
          }
          for (index_t c = 0; c < head_size; ++c) {
            compare(value(out[place(i, c)]), o[static_cast<std::size_t>(c)]);
            double dq = 0;
            for (index_t j = 0; j < n; ++j) {
              const auto e = static_cast<std::size_t>(j);
              const double ds = p[e] * (dp[e] - mean);
              dq += ds * at(j, 1, c);
              dk[static_cast<std::size_t>(j * head_size + c)] += ds * at(i, 0, c);
            }
            compare(value(d_qkv[static_cast<std::size_t>((first + i) * 3 * hidden + head * head_size + c)]),
                    dq / std::sqrt(static_cast<double>(head_size)));
          }
        }
        for (index_t j = 0; j < n; ++j) {
          for (index_t c = 0; c < head_size; ++c) {
            const auto own = static_cast<std::size_t>((first + j) * 3 * hidden + head * head_size + c);
            const auto e = static_cast<std::size_t>(j * head_size + c);
            compare(value(d_qkv[own + static_cast<std::size_t>(hidden)]), dk[e]);
            compare(value(d_qkv[own + static_cast<std::size_t>(2 * hidden)]), dv[e]);
          }
        }
      }
    }
    CHECK(largest < tolerance);
  }
}

TEST_CASE_TEMPLATE("AdamW: blocks without moments and gradient rest, with the same numbers", T, float, double,
                   bfloat16) {
  using C = compute_t<T>;
  HostBackend::Context ctx(2);
  constexpr index_t block = Ops::adamw_block;
  const index_t n = 6 * block + 100;
  const auto count = static_cast<std::size_t>(n);
  for (const double keep : {1.0, 0.99}) {
    for (const bool clear : {true, false}) {
      CAPTURE(keep);
      CAPTURE(clear);
      struct Arrays {
        std::vector<C> w, g, m, v;
        std::vector<T> rounded;
      };
      Arrays mine{
          random_numbers<C>(n, 1), std::vector<C>(count), std::vector<C>(count), std::vector<C>(count), {}};
      for (const C x : mine.w)
        mine.rounded.push_back(static_cast<T>(x));
      mine.m[static_cast<std::size_t>(3 * block)] = C(0.5F);  // of a state that was read
      Arrays plain = mine;
      std::vector<MomentsState> states(7, MomentsState::unknown);
      const auto piece = [&](Arrays& a, MomentsState* known) {
        AdamWPiece<T> p;
        p.coefficients = {
            static_cast<C>(keep), C(0.9F), C(0.1F), C(0.999F), C(0.001F), C(1), C(1e-2F), C(2), C(1e-8F)};
        p.count = n;
        p.weight = a.w.data();
        p.gradient = a.g.data();
        p.first = a.m.data();
        p.second = a.v.data();
        p.rounded = a.rounded.data();
        p.states = known;
        return p;
      };
      for (int step = 0; step < 4; ++step) {
        // The fifth block gets its first gradient in the third step, the second one in every other.
        for (Arrays* a : {&mine, &plain}) {
          std::fill(a->g.begin(), a->g.end(), C(0));
          if (step == 2) a->g[static_cast<std::size_t>(5 * block - 1)] = C(0.25F);
          if (step % 2 == 0) a->g[static_cast<std::size_t>(block + 7)] = C(-1);
        }
        const AdamWPiece<T> pieces[] = {piece(mine, states.data())};
        const AdamWPiece<T> others[] = {piece(plain, nullptr)};
        Ops::adamw<T>(ctx, pieces, clear);
        Ops::adamw<T>(ctx, others, clear);
        CHECK(mine.w == plain.w);
        CHECK(mine.m == plain.m);
        CHECK(mine.v == plain.v);
        CHECK(mine.g == plain.g);
        for (std::size_t i = 0; i < count; ++i)
          REQUIRE(value(mine.rounded[i]) == value(plain.rounded[i]));
        for (std::size_t b = 0; b < states.size(); ++b) {
          const bool moves = b == 1 || b == 3 || (b == 4 && step >= 2);
          CHECK(states[b] == (moves ? MomentsState::others : MomentsState::zeros));
        }
      }
      // NaN reaches the weights as before.
      mine.g[0] = std::numeric_limits<C>::quiet_NaN();
      const AdamWPiece<T> pieces[] = {piece(mine, states.data())};
      Ops::adamw<T>(ctx, pieces, clear);
      CHECK(!(mine.w[0] == mine.w[0]));
    }
  }
}

TEST_CASE("AdamW: moments that were read from a file move weights without a gradient") {
  HostBackend::Context ctx(1);
  std::vector<float> w(1000, 1.0F), g(1000, 0.0F);
  AdamW<float, HostBackend> adam(ctx, {{"w", w.data(), g.data(), 1000, 0, nullptr}});
  adam.step(ctx, {.learning_rate = 0.1});
  CHECK(w == std::vector<float>(1000, 1.0F));
  adam.first_moments().data[300] = 1;
  adam.set_steps(1);
  adam.step(ctx, {.learning_rate = 0.1});
  CHECK(w[300] != 1.0F);
  CHECK(w[299] == 1.0F);
  // And rest again once they are zeros.
  adam.reset(ctx);
  const std::vector<float> before = w;
  adam.step(ctx, {.learning_rate = 0.1});
  CHECK(w == before);
}

}  // namespace sparsegrad::finetune
