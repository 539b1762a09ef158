// The layers' operations on activations of 16 bits, in the host's memory, against the same ones in float: every stored
// number is the float one rounded once.
#include <cmath>
#include <cstring>
#include <vector>

#include <doctest/doctest.h>

#include "models/host_backend.hpp"

#include "models/layers/host/layer_ops.hpp"
#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

namespace {

using Blas = HostBackend;
using Ops = LayerOps<Blas>;

/// Half of the largest relative distance of neighbours: what one rounding changes at most.
template <class T>
constexpr double rounding = low_precision_epsilon<T> / 2;

/// A matrix whose rows are further apart than they are wide.
template <class T>
struct Matrix {
  Matrix(index_t rows_, index_t cols_)
      : rows(rows_), cols(cols_), values(static_cast<std::size_t>(rows_ * (cols_ + 3)), T(0.0F)) {}
  MatrixView<T> view() { return MatrixView<T>(values.data(), rows, cols, cols + 3); }
  T& operator()(index_t i, index_t j) { return values[static_cast<std::size_t>(i * (cols + 3) + j)]; }
  index_t rows, cols;
  std::vector<T> values;
};

/// The same random numbers in T and in float.
template <class T>
struct Both {
  Both(index_t rows, index_t cols, std::uint64_t seed = 0, double scale = 0)
      : low(rows, cols), wide(rows, cols) {
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < cols; ++j) {
        low(i, j) = T(static_cast<float>(scale * normal_at(seed, static_cast<std::uint64_t>(i * cols + j))));
        wide(i, j) = static_cast<float>(low(i, j));
      }
    }
  }
  /// Writes what `low` holds to `wide`.
  void widen() {
    for (index_t i = 0; i < low.rows; ++i)
      for (index_t j = 0; j < low.cols; ++j)
        wide(i, j) = static_cast<float>(low(i, j));
  }
  Matrix<T> low;
  Matrix<float> wide;
};

/// Float's own differences, from sums in another order, are below `slack` of the largest number.
template <class T>
void check_rounded(const char* what, Both<T>& found, double slack = 1e-6) {
  double most = 0;
  for (const float x : found.wide.values)
    most = std::max(most, std::abs(static_cast<double>(x)));
  double worst = 0;
  for (index_t i = 0; i < found.low.rows; ++i) {
    for (index_t j = 0; j < found.low.cols; ++j) {
      const double wanted = static_cast<double>(found.wide(i, j));
      const double distance = std::abs(static_cast<double>(static_cast<float>(found.low(i, j))) - wanted);
      // Below the normal numbers the places of a half are 2^-24 apart.
      worst = std::max(worst, distance - std::max(rounding<T> * std::abs(wanted), 0x1p-25) - slack * most);
    }
  }
  CHECK_MESSAGE(worst <= 0, what << ": farther than one rounding by " << worst);
  CHECK_MESSAGE(most > 0, what << ": nothing to compare");
}

std::vector<float> random_floats(index_t n, std::uint64_t seed, float around = 0, float scale = 1) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = around + scale * static_cast<float>(normal_at(seed, i));
  return x;
}

void check_near(const char* what, const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(b[i])));
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  CHECK_MESSAGE(worst <= 2e-6 * most, what << ": " << worst << " of " << most);
  CHECK_MESSAGE(most > 0, what << ": nothing to compare");
}

#define SPARSEGRAD_TEST_NARROW(text) TEST_CASE_TEMPLATE(text, T, bfloat16, float16)

SPARSEGRAD_TEST_NARROW("packs: 16 bits are read and rounded as one number is") {
  constexpr int width = Simd<float>::width;
  T stored[width];
  float values[width];
  for (std::uint32_t first = 0; first < 0x10000U; first += width) {
    for (int l = 0; l < width; ++l)
      stored[l] = T::from_bits(static_cast<std::uint16_t>(first + static_cast<std::uint32_t>(l)));
    const Pack<float> pack = load_pack(stored);
    std::memcpy(values, &pack, sizeof values);
    for (int l = 0; l < width; ++l) {
      const float wanted = stored[l];
      REQUIRE(std::memcmp(&values[l], &wanted, sizeof wanted) == 0);
    }
    // Back, and the numbers around the middle between two neighbours.
    for (const std::uint32_t shift : {0U, 0xFFFU, 0x1000U, 0x1001U, 0x7FFFU, 0x8000U, 0x8001U}) {
      for (int l = 0; l < width; ++l) {
        std::uint32_t bits;
        std::memcpy(&bits, &values[l], sizeof bits);
        bits += shift;
        std::memcpy(&values[l], &bits, sizeof bits);
      }
      Pack<float> floats;
      std::memcpy(&floats, values, sizeof floats);
      store_pack(stored, floats);
      for (int l = 0; l < width; ++l)
        REQUIRE(stored[l].bits == T(values[l]).bits);
    }
  }
  for (std::uint64_t run = 0; run < 20000; ++run) {
    for (int l = 0; l < width; ++l) {
      float& v = values[l];
      const auto bits = static_cast<std::uint32_t>(mix_bits(run * width + static_cast<std::uint64_t>(l)));
      std::memcpy(&v, &bits, sizeof v);
    }
    Pack<float> floats;
    std::memcpy(&floats, values, sizeof floats);
    store_pack(stored, floats);
    for (int l = 0; l < width; ++l)
      REQUIRE(stored[l].bits == T(values[l]).bits);
  }
}

SPARSEGRAD_TEST_NARROW("layer operations in 16 bits: LayerNorm with residual and dropout") {
  Blas::Context ctx(2);
  for (const index_t n : {1, 7, 96, 101}) {
    for (const double probability : {0.0, 0.3}) {
      CAPTURE(n);
      CAPTURE(probability);
      const index_t rows = 70;
      const std::vector<float> gamma = random_floats(n, 1, 1, 0.2F), beta = random_floats(n, 2);
      const std::vector<float> bias = random_floats(n, 3);
      std::vector<std::vector<float>> sums(6, std::vector<float>(static_cast<std::size_t>(n), 0.5F));
      const auto norm = [&](std::size_t first) {
        return LayerNorm<float>{gamma.data(), beta.data(), sums[first].data(), sums[first + 1].data(), 1e-5F};
      };
      const Dropout<float> dropout(probability, 9);
      Both<T> x(rows, n, 4, 2), residual(rows, n, 5, 1), y(rows, n);
      std::vector<float> rstd(rows), wide_rstd(rows);
      Ops::residual_norm_forward<T>(ctx, norm(0), dropout, bias.data(), x.low.view(), residual.low.view(),
                                    rstd.data(), y.low.view());
      Ops::residual_norm_forward<float>(ctx, norm(3), dropout, bias.data(), x.wide.view(),
                                        residual.wide.view(), wide_rstd.data(), y.wide.view());
      if (n > 1) check_rounded("xhat", x);
      check_rounded("y", y);
      check_near("rstd", rstd, wide_rstd);

      x.widen();
      Both<T> g(rows, n, 6, 1), extra(rows, n, 7, 1), dx(rows, n);
      Ops::residual_norm_backward<T>(ctx, norm(0), dropout, x.low.view(), rstd.data(), g.low.view(),
                                     extra.low.view(), dx.low.view(), sums[2].data());
      Ops::residual_norm_backward<float>(ctx, norm(3), dropout, x.wide.view(), rstd.data(), g.wide.view(),
                                         extra.wide.view(), dx.wide.view(), sums[5].data());
      // One number a row has no slope: what is left is rounding.
      if (n > 1) check_rounded("dz", g, 4e-6);
      if (n > 1 && probability > 0) check_rounded("dx", dx, 4e-6);
      check_near("d_gamma", sums[0], sums[3]);
      check_near("d_beta", sums[1], sums[4]);
      if (n > 1) check_near("d_bias", sums[2], sums[5]);
    }
  }
}

SPARSEGRAD_TEST_NARROW("layer operations in 16 bits: embeddings") {
  Blas::Context ctx(2);
  const index_t n = 75;
  Batch batch;
  for (const index_t length : {3, 20, 1, 9}) {
    std::vector<std::int32_t> ids, types;
    for (index_t i = 0; i < length; ++i) {
      ids.push_back(static_cast<std::int32_t>(i * 7 % 11));
      types.push_back(i > 3 ? 1 : 0);
    }
    batch.add(ids, types, 0);
  }
  PlacedBatch<Blas> placed;
  placed.place(ctx, batch, true);
  std::vector<float> tables = random_floats((11 + 20 + 2) * n, 1);
  const std::vector<float> gamma = random_floats(n, 2, 1, 0.2F), beta = random_floats(n, 3);
  std::vector<std::vector<float>> d_tables(2, std::vector<float>(tables.size(), 0.25F));
  std::vector<std::vector<float>> d_norms(2, std::vector<float>(static_cast<std::size_t>(2 * n)));
  const auto embeddings = [&](std::size_t which) {
    Embeddings<float> e;
    const auto split = [&](float* p, auto& word, auto& position, auto& type) {
      word = MatrixView<float>(p, 11, n);
      position = MatrixView<float>(p + 11 * n, 20, n);
      type = MatrixView<float>(p + 31 * n, 2, n);
    };
    split(tables.data(), e.word, e.position, e.type);
    split(d_tables[which].data(), e.d_word, e.d_position, e.d_type);
    e.norm = {gamma.data(), beta.data(), d_norms[which].data(), d_norms[which].data() + n, 1e-5F};
    return e;
  };
  for (const double probability : {0.0, 0.3}) {
    CAPTURE(probability);
    const Dropout<float> dropout(probability, 9);
    const index_t tokens = batch.tokens();
    Both<T> xhat(tokens, n), y(tokens, n), g(tokens, n, 6, 1);
    std::vector<float> rstd(static_cast<std::size_t>(tokens));
    Ops::embeddings_forward<T>(ctx, embeddings(0), placed, dropout, xhat.low.view(), rstd.data(),
                               y.low.view());
    Ops::embeddings_forward<float>(ctx, embeddings(1), placed, dropout, xhat.wide.view(), rstd.data(),
                                   y.wide.view());
    check_rounded("xhat", xhat);
    check_rounded("y", y);
    xhat.widen();
    Ops::embeddings_backward<T>(ctx, embeddings(0), placed, dropout, xhat.low.view(), rstd.data(),
                                g.low.view());
    Ops::embeddings_backward<float>(ctx, embeddings(1), placed, dropout, xhat.wide.view(), rstd.data(),
                                    g.wide.view());
    check_rounded("dz", g);
    check_near("d_gamma, d_beta", d_norms[0], d_norms[1]);
    // The tables add what was stored.
    double distance = 0, size = 0;
    for (std::size_t i = 0; i < tables.size(); ++i) {
      distance += std::pow(static_cast<double>(d_tables[0][i] - d_tables[1][i]), 2);
      size += std::pow(static_cast<double>(d_tables[1][i]), 2);
    }
    CHECK(distance > 0);
    CHECK(std::sqrt(distance) <= rounding<T> * std::sqrt(size));
    d_tables[1] = d_tables[0];
  }
}

SPARSEGRAD_TEST_NARROW("layer operations in 16 bits: gelu, tanh, masks, column sums, first rows") {
  Blas::Context ctx(2);
  for (const index_t n : {5, 133}) {
    CAPTURE(n);
    const index_t rows = 37;
    const std::vector<float> bias = random_floats(n, 1);
    std::vector<float> sums(static_cast<std::size_t>(n), 1), wide_sums = sums;
    Both<T> h(rows, n, 2, 2), out(rows, n), g(rows, n, 3, 1);
    Ops::gelu_forward<T>(ctx, bias.data(), h.low.view(), out.low.view());
    Ops::gelu_forward<float>(ctx, bias.data(), h.wide.view(), out.wide.view());
    check_rounded("gelu", out);
    check_rounded("gelu'", h);
    h.widen();
    Ops::gelu_backward<T>(ctx, h.low.view(), g.low.view(), sums.data());
    Ops::gelu_backward<float>(ctx, h.wide.view(), g.wide.view(), wide_sums.data());
    check_rounded("gelu backward", g);
    check_near("its sums", sums, wide_sums);

    Both<T> x(rows, n, 4, 1), d(rows, n, 5, 1);
    Ops::column_sums<T>(ctx, x.low.view(), sums.data());
    Ops::column_sums<float>(ctx, x.wide.view(), wide_sums.data());
    check_near("column sums", sums, wide_sums);
    Ops::tanh_forward<T>(ctx, bias.data(), x.low.view());
    Ops::tanh_forward<float>(ctx, bias.data(), x.wide.view());
    check_rounded("tanh", x);
    x.widen();
    Ops::tanh_backward<T>(ctx, x.low.view(), d.low.view());
    Ops::tanh_backward<float>(ctx, x.wide.view(), d.wide.view());
    check_rounded("tanh backward", d);
    const Dropout<float> dropout(0.3, 9);
    Ops::apply_mask<T>(ctx, dropout, x.low.view());
    Ops::apply_mask<float>(ctx, dropout, x.wide.view());
    check_rounded("mask", x);
  }
  Batch batch;
  for (const std::size_t length : {2, 1, 4})
    batch.add(std::vector<std::int32_t>(length, 1), {}, 0);
  PlacedBatch<Blas> placed;
  placed.place(ctx, batch, false);
  Both<T> x(7, 5, 1, 1), first(3, 5), back(7, 5, 2, 1);
  Ops::take_first<T>(ctx, placed, x.low.view(), first.low.view());
  Ops::put_first<T>(ctx, placed, first.low.view(), back.low.view());
  for (index_t i = 0; i < 7; ++i)
    for (index_t j = 0; j < 5; ++j)
      CHECK(static_cast<float>(back.low(i, j)) == (i == 0 || i == 2 || i == 3 ? x.wide(i, j) : 0));
}

SPARSEGRAD_TEST_NARROW("layer operations in 16 bits: attention") {
  Blas::Context ctx(2);
  // Sizes whose root is a power of 2, by which queries are scaled without rounding.
  for (const index_t head_size : {4, 16, 64}) {
    for (const bool padded : {false, true}) {
      for (const double probability : {0.0, 0.2}) {
        CAPTURE(head_size);
        CAPTURE(padded);
        CAPTURE(probability);
        const AttentionShape shape{2, head_size};
        const index_t hidden = shape.hidden();
        Batch batch;
        for (const std::size_t length : {1, 17, 100, 49})
          batch.add(std::vector<std::int32_t>(length, 1), {}, 0, padded ? 103 : 0);
        PlacedBatch<Blas> placed;
        placed.place(ctx, batch, true);
        const index_t tokens = batch.tokens();
        const Dropout<float> dropout(probability, 9);
        const std::vector<float> bias = random_floats(3 * hidden, 1);
        const std::vector<float> no_bias(bias.size());
        std::vector<float> log_sums(static_cast<std::size_t>(2 * tokens)), wide_log_sums = log_sums;
        const index_t work_size = std::max(Ops::attention_work<T>(ctx, shape, tokens, batch.longest()),
                                           Ops::attention_work<float>(ctx, shape, tokens, batch.longest()));
        std::vector<float> work(static_cast<std::size_t>(work_size));
        Both<T> qkv(tokens, 3 * hidden, 2, 1), out(tokens, hidden);
        const Matrix<float> before = qkv.wide;
        Ops::attention_forward<T>(ctx, shape, placed, bias.data(), dropout, qkv.low.view(), out.low.view(),
                                  log_sums.data(), work.data());
        // Bias and scale, as they were stored.
        const float scale = shape.scale<float>();
        for (index_t i = 0; i < tokens; ++i)
          for (index_t j = 0; j < 3 * hidden; ++j)
            qkv.wide(i, j) = (qkv.wide(i, j) + bias[static_cast<std::size_t>(j)]) * (j < hidden ? scale : 1);
        check_rounded("qkv", qkv);
        // Attention in float to what was stored.
        qkv.widen();
        for (index_t i = 0; i < tokens; ++i)
          for (index_t j = 0; j < hidden; ++j)
            qkv.wide(i, j) /= scale;
        Ops::attention_forward<float>(ctx, shape, placed, no_bias.data(), dropout, qkv.wide.view(),
                                      out.wide.view(), wide_log_sums.data(), work.data());
        check_rounded("out", out);
        check_near("log sums", log_sums, wide_log_sums);

        out.widen();
        Both<T> d_out(tokens, hidden, 3, 1), d_qkv(tokens, 3 * hidden, 4, 1);
        Ops::attention_backward<T>(ctx, shape, placed, dropout, qkv.low.view(), out.low.view(),
                                   log_sums.data(), d_out.low.view(), d_qkv.low.view(), work.data());
        Ops::attention_backward<float>(ctx, shape, placed, dropout, qkv.wide.view(), out.wide.view(),
                                       log_sums.data(), d_out.wide.view(), d_qkv.wide.view(), work.data());
        check_rounded("d_qkv", d_qkv);
      }
    }
  }
}

SPARSEGRAD_TEST_NARROW("layer operations in 16 bits: AdamW rounds its float weights") {
  Blas::Context ctx(2);
  for (const index_t n : {1, 1500, 3000}) {
    CAPTURE(n);
    std::vector<float> w = random_floats(n, 1), g = random_floats(n, 2), m(w.size()), v(w.size());
    std::vector<float> wide_w = w, wide_g = g, wide_m = m, wide_v = v;
    std::vector<T> rounded(w.size(), T(0.0F));
    const AdamWCoefficients<float> c{0.999F, 0.9F, 0.1F, 0.999F, 0.001F, 0.5F, 1e-2F, 2, 1e-8F};
    const AdamWPiece<T> pieces[] = {{c, n, w.data(), g.data(), m.data(), v.data(), rounded.data()}};
    const AdamWPiece<float> wide[] = {
        {c, n, wide_w.data(), wide_g.data(), wide_m.data(), wide_v.data(), nullptr}};
    double sum = 0, wide_sum = 0;
    Ops::sums_of_squares<T>(ctx, pieces, &sum);
    Ops::sums_of_squares<float>(ctx, wide, &wide_sum);
    CHECK(sum == wide_sum);
    for (const bool clear : {false, true}) {
      Ops::adamw<T>(ctx, pieces, clear);
      Ops::adamw<float>(ctx, wide, clear);
      CHECK(w == wide_w);
      CHECK(m == wide_m);
      CHECK(v == wide_v);
      CHECK(g == wide_g);
      CHECK((g[0] == 0) == clear);
      for (std::size_t i = 0; i < w.size(); ++i)
        REQUIRE(rounded[i].bits == T(w[i]).bits);
    }
  }
}

}  // namespace

}  // namespace sparsegrad::finetune
