#include "sparsegrad/hosvd_accumulator.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include "support/stacks.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

/// sum_i w_i op(G_i) op(G_i)^T.
template <class T>
Matrix<double> plain_gram(const std::vector<Matrix<T>>& gradients, const std::vector<double>& weights,
                          bool in_side) {
  const index_t n = in_side ? gradients[0].cols : gradients[0].rows;
  Matrix<double> sum(n, n);
  for (std::size_t g = 0; g < gradients.size(); ++g) {
    const Matrix<double> one = product(gradients[g], gradients[g], in_side, !in_side);
    for (std::size_t e = 0; e < sum.data.size(); ++e)
      sum.data[e] += weights[g] * one.data[e];
  }
  return sum;
}

double lower_difference(MatrixView<const double> a, const Matrix<double>& b) {
  double worst = a.rows == b.rows && a.cols == b.cols ? 0 : INFINITY;
  for (index_t i = 0; i < a.rows; ++i)
    for (index_t j = 0; j <= i; ++j)
      worst = std::max(worst, std::abs(a(i, j) - b(i, j)));
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("hosvd accumulator: Gram sums against plain loops", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  for (const auto& extents : {std::pair<index_t, index_t>{1, 1}, {7, 13}, {31, 17}, {1, 19}, {23, 1}}) {
    const index_t out = extents.first;
    const index_t in = extents.second;
    CAPTURE(out);
    CAPTURE(in);
    std::vector<Matrix<T>> gradients;
    const std::vector<double> weights{1, 0.25, 0, 3};
    for (std::uint64_t g = 0; g < 4; ++g)
      gradients.push_back(random_matrix<T>(out, in, g));
    HosvdAccumulator<T, B> sums(ctx, out, in);
    CHECK(sums.bytes() == (out * out + in * in) * 8);
    CHECK(HosvdAccumulator<T, B>::bytes_for(out, in) == sums.bytes());
    double energy = 0;
    for (std::size_t g = 0; g < 4; ++g) {
      Matrix<T> wider(out, in + 3, std::numeric_limits<T>::quiet_NaN());  // a stride beyond the columns
      for (index_t i = 0; i < out; ++i)
        for (index_t j = 0; j < in; ++j)
          wider(i, j) = gradients[g](i, j);
      sums.add(ctx, wider.view().block(0, 0, out, in), weights[g]);
      energy += weights[g] * energy_of(gradients[g]);
    }
    const double tolerance = 100 * S::eps * static_cast<double>(out + in);
    CHECK(sums.count() == 4);
    CHECK(sums.total_energy() == doctest::Approx(energy).epsilon(1e-6));
    CHECK(lower_difference(sums.gram(GradientSide::out), plain_gram(gradients, weights, false)) <= tolerance);
    CHECK(lower_difference(sums.gram(GradientSide::in), plain_gram(gradients, weights, true)) <= tolerance);

    HosvdOptions options;
    options.normalize = true;
    HosvdAccumulator<T, B> normalised(ctx, out, in, options);
    std::vector<double> shares;
    for (std::size_t g = 0; g < 4; ++g) {
      normalised.add(ctx, gradients[g].view(), weights[g]);
      shares.push_back(weights[g] / energy_of(gradients[g]));
    }
    normalised.add(ctx,
                   Matrix<T>(out, in).view());  // a gradient without energy adds nothing but to the count
    CHECK(normalised.total_energy() == doctest::Approx(4.25));
    CHECK(normalised.count() == 5);
    CHECK(lower_difference(normalised.gram(GradientSide::in), plain_gram(gradients, shares, true)) <=
          tolerance);

    sums.clear(ctx);
    CHECK(sums.count() == 0);
    CHECK(sums.total_energy() == 0);
    CHECK(lower_difference(sums.gram(GradientSide::in), Matrix<double>(in, in)) == 0);
  }
}

TEST_CASE_TEMPLATE("hosvd accumulator: gradients stored [in, out]", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  const index_t out = 9;
  const index_t in = 531;
  HosvdOptions sketched;
  sketched.gram_limit_bytes = 100000;  // the in side: a sketch
  for (const HosvdOptions& options : {HosvdOptions(), sketched}) {
    CAPTURE(options.gram_limit_bytes);
    HosvdAccumulator<T, B> plain(ctx, out, in, options);
    HosvdAccumulator<T, B> swapped(ctx, out, in, options);
    for (std::uint64_t g = 0; g < 3; ++g) {
      Matrix<T> gradient = random_matrix<T>(out, in, g);
      // The last one is so small that it is scaled before it is squared.
      for (T& x : gradient.data)
        x = g == 2 ? x * static_cast<T>(1e-20) : x;
      Matrix<T> stored(in, out + 2, std::numeric_limits<T>::quiet_NaN());  // a stride beyond the columns
      for (index_t i = 0; i < out; ++i)
        for (index_t j = 0; j < in; ++j)
          stored(j, i) = gradient(i, j);
      const double weight = 0.5 + static_cast<double>(g);
      plain.add(ctx, gradient.view(), weight);
      CHECK(swapped.add_if_finite(ctx, stored.view().block(0, 0, in, out), weight, WeightLayout::in_out));
    }
    const double tolerance = 20000 * S::eps;
    CHECK(swapped.count() == 3);
    CHECK(swapped.total_energy() == doctest::Approx(plain.total_energy()).epsilon(1e-6));
    CHECK(max_difference(swapped.gram(GradientSide::out), plain.gram(GradientSide::out)) <= tolerance);
    CHECK(max_difference(swapped.gram(GradientSide::in), plain.gram(GradientSide::in)) <= tolerance);
    CHECK(max_difference(swapped.sketch(GradientSide::in), plain.sketch(GradientSide::in)) <= tolerance);
  }

  HosvdAccumulator<T, B> sums(ctx, 5, 7);
  CHECK(message_of<ShapeError>([&] { sums.add(ctx, Matrix<T>(5, 7).view(), 1, WeightLayout::in_out); }) ==
        "gradient is 5x7, expected 7x5 (in x out of the accumulator)");
  Matrix<T> bad(7, 5);
  bad(6, 4) = std::numeric_limits<T>::infinity();
  CHECK(message_of<NonFiniteError>([&] { sums.add(ctx, bad.view(), 1, WeightLayout::in_out); }) ==
        "gradient 0 has Inf at (6, 4); the sums are unchanged");
}

TEST_CASE("hosvd accumulator: bytes_for is what one takes") {
  backend::Cpu::Context ctx(1);
  HosvdOptions only_out;
  only_out.in_side = false;
  HosvdOptions only_in;
  only_in.out_side = false;
  HosvdOptions sketched;
  sketched.gram_limit_bytes = 100000;
  HosvdOptions columns = sketched;
  columns.sketch_columns = 3;
  HosvdOptions small;
  small.gram_limit_bytes = 10;
  for (const auto& [out, in] : {std::pair<index_t, index_t>{4, 6}, {0, 3}, {8, 531}, {531, 200}}) {
    CAPTURE(out);
    CAPTURE(in);
    for (const HosvdOptions& options : {HosvdOptions(), only_out, only_in, sketched, columns}) {
      CHECK(HosvdAccumulator<float>::bytes_for(out, in, options) ==
            HosvdAccumulator<float>(ctx, out, in, options).bytes());
      CHECK(HosvdAccumulator<double>::bytes_for(out, in, options) ==
            HosvdAccumulator<double>(ctx, out, in, options).bytes());
    }
  }
  CHECK(HosvdAccumulator<float>::bytes_for(4, 6) == (4 * 4 + 6 * 6) * 8);
  CHECK(HosvdAccumulator<float>::bytes_for(8, 531, columns) == 8 * 8 * 8 + 531 * 3 * (8 + 4));
  CHECK_THROWS_AS(HosvdAccumulator<float>::bytes_for(-1, 6), ValueError);
  CHECK_THROWS_AS(HosvdAccumulator<float>::bytes_for(4, 6, small), ValueError);
}

TEST_CASE_TEMPLATE("hosvd accumulator: merge equals one pass to the rounding of double", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  HosvdAccumulator<T, B> all(ctx, 9, 14);
  HosvdAccumulator<T, B> first(ctx, 9, 14);
  HosvdAccumulator<T, B> second(ctx, 9, 14);
  for (std::uint64_t g = 0; g < 6; ++g) {
    const Matrix<T> gradient = random_matrix<T>(9, 14, g);
    all.add(ctx, gradient.view());
    (g < 2 ? first : second).add(ctx, gradient.view());
  }
  first.merge(ctx, second);
  CHECK(first.count() == 6);
  CHECK(first.total_energy() == doctest::Approx(all.total_energy()).epsilon(1e-14));
  CHECK(max_difference(first.gram(GradientSide::out), all.gram(GradientSide::out)) < 1e-12);
  CHECK(max_difference(first.gram(GradientSide::in), all.gram(GradientSide::in)) < 1e-12);
}

TEST_CASE_TEMPLATE("hosvd accumulator: NaN and Inf leave the sums as they were", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  HosvdAccumulator<T, B> sums(ctx, 5, 7);
  sums.add(ctx, random_matrix<T>(5, 7, 1).view());
  sums.add(ctx, random_matrix<T>(5, 7, 2).view());
  const auto before = copied(sums.gram(GradientSide::in));
  const double energy = sums.total_energy();
  Matrix<T> bad = random_matrix<T>(5, 7, 3);
  bad(3, 2) = std::numeric_limits<T>::quiet_NaN();
  bad(4, 0) = std::numeric_limits<T>::infinity();
  CHECK(message_of<NonFiniteError>([&] { sums.add(ctx, bad.view()); }) ==
        "gradient 2 has NaN at (3, 2); the sums are unchanged");
  bad(3, 2) = 0;
  CHECK(message_of<NonFiniteError>([&] { sums.add(ctx, bad.view()); }) ==
        "gradient 2 has Inf at (4, 0); the sums are unchanged");
  CHECK(max_difference(sums.gram(GradientSide::in), before) == 0);
  CHECK(sums.total_energy() == energy);
  CHECK(sums.count() == 2);
}

TEST_CASE_TEMPLATE("hosvd accumulator: gradients whose squares leave the range of T", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  const std::vector<double> sizes = sizeof(T) == 4 ? std::vector<double>{1e-30, 1e-22, 1e22, 1e34}
                                                   : std::vector<double>{1e-150, 1e-146, 1e148};
  for (const double size : sizes) {
    CAPTURE(size);
    std::vector<Matrix<T>> gradients{random_matrix<T>(6, 5, 1)};
    for (T& x : gradients[0].data)
      x = static_cast<T>(static_cast<double>(x) * size);
    HosvdAccumulator<T, B> sums(ctx, 6, 5);
    sums.add(ctx, gradients[0].view());
    CHECK(lower_difference(sums.gram(GradientSide::out), plain_gram(gradients, {1.0}, false)) <=
          1000 * S::eps * size * size);
    HosvdOptions options;
    options.normalize = true;
    HosvdAccumulator<T, B> normalised(ctx, 6, 5, options);
    normalised.add(ctx, gradients[0].view());
    CHECK(lower_difference(normalised.gram(GradientSide::out),
                           plain_gram(gradients, {1 / energy_of(gradients[0])}, false)) <= 1000 * S::eps);
  }
}

TEST_CASE_TEMPLATE("hosvd accumulator: sketch of a side whose Gram matrix is too large", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  const index_t out = 6;
  const index_t in = 531;  // more than one piece of 512
  HosvdOptions options;
  options.gram_limit_bytes = 100000;  // Gram: 531 * 531 * 8 = 2.3 MB
  HosvdAccumulator<T, B> sums(ctx, out, in, options);
  const auto column = in * static_cast<index_t>(8 + sizeof(T));
  CHECK(sums.sketched(GradientSide::in));
  CHECK_FALSE(sums.sketched(GradientSide::out));
  CHECK(sums.sketch(GradientSide::in).cols == 100000 / column);
  CHECK(sums.bytes() == out * out * 8 + 100000 / column * column);
  CHECK(HosvdAccumulator<T, B>::bytes_for(out, in, options) == sums.bytes());
  CHECK(sums.gram(GradientSide::in).size() == 0);

  std::vector<Matrix<T>> gradients;
  std::vector<double> weights{1, 0.5, 2};
  HosvdAccumulator<T, B> other(ctx, out, in, options);
  for (std::uint64_t g = 0; g < 3; ++g) {
    gradients.push_back(random_matrix<T>(out, in, g));
    (g == 1 ? other : sums).add(ctx, gradients.back().view(), weights[g]);
  }
  sums.merge(ctx, other);
  const Matrix<double> expected =
      product(plain_gram(gradients, weights, true), sums.test_matrix(GradientSide::in));
  CHECK(max_difference(sums.sketch(GradientSide::in), expected) <= 20000 * S::eps);

  // The same Omega whoever makes it; normal numbers.
  const MatrixView<const T> omega = sums.test_matrix(GradientSide::in);
  CHECK(max_difference(omega, other.test_matrix(GradientSide::in)) == 0);
  CHECK(energy_of(omega) / static_cast<double>(omega.size()) == doctest::Approx(1).epsilon(0.1));

  options.sketch_columns = 4;
  const HosvdAccumulator<T, B> four(ctx, out, in, options);
  CHECK(four.sketch(GradientSide::in).cols == 4);
  CHECK(HosvdAccumulator<T, B>::bytes_for(out, in, options) == four.bytes());
}

TEST_CASE("hosvd accumulator: only the sides asked for") {
  backend::Cpu::Context ctx(1);
  HosvdOptions options;
  options.in_side = false;
  HosvdAccumulator<float> sums(ctx, 8, 1000, options);
  CHECK(sums.bytes() == 8 * 8 * 8);
  CHECK(HosvdAccumulator<float>::bytes_for(8, 1000, options) == sums.bytes());
  CHECK(sums.has_side(GradientSide::out));
  CHECK_FALSE(sums.has_side(GradientSide::in));
  sums.add(ctx, random_matrix<float>(8, 1000, 1).view());
  CHECK(sums.gram(GradientSide::in).size() == 0);
  options.out_side = false;
  HosvdAccumulator<float> none(ctx, 8, 1000, options);
  CHECK(none.bytes() == 0);
  none.add(ctx, random_matrix<float>(8, 1000, 1).view());
  CHECK(none.total_energy() == doctest::Approx(8000).epsilon(0.1));
  HosvdAccumulator<float> empty(ctx, 0, 3);
  empty.add(ctx, MatrixView<float>(nullptr, 0, 3));
  CHECK(empty.count() == 1);
  CHECK(empty.total_energy() == 0);
}

TEST_CASE("hosvd accumulator: same bits for any number of threads when deterministic") {
  backend::CpuBlas::Context one(1, true);
  HosvdAccumulator<float, backend::CpuBlas> want(one, 500, 431);
  for (std::uint64_t g = 0; g < 3; ++g)
    want.add(one, random_matrix<float>(500, 431, g).view());
  for (const int threads : {2, 3}) {
    backend::CpuBlas::Context ctx(threads, true);
    HosvdAccumulator<float, backend::CpuBlas> sums(ctx, 500, 431);
    for (std::uint64_t g = 0; g < 3; ++g)
      sums.add(ctx, random_matrix<float>(500, 431, g).view());
    CHECK(max_difference(sums.gram(GradientSide::out), want.gram(GradientSide::out)) == 0);
    CHECK(max_difference(sums.gram(GradientSide::in), want.gram(GradientSide::in)) == 0);
  }
}

TEST_CASE("hosvd accumulator: refusals") {
  backend::Cpu::Context ctx(1);
  using Sums = HosvdAccumulator<float>;
  Sums sums(ctx, 4, 6);
  CHECK(message_of<ShapeError>([&] { sums.add(ctx, Matrix<float>(6, 4).view()); }) ==
        "gradient is 6x4, expected 4x6 (out x in of the accumulator)");
  CHECK(message_of<ValueError>([&] { sums.add(ctx, Matrix<float>(4, 6).view(), -1); }) ==
        "weight of gradient 0 is -1, expected finite and >= 0");
  CHECK_THROWS_AS(sums.add(ctx, Matrix<float>(4, 6).view(), NAN), ValueError);
  CHECK_THROWS_AS(sums.add(ctx, Matrix<float>(4, 6).view(), INFINITY), ValueError);
  CHECK(message_of<ValueError>([&] { Sums(ctx, -1, 6); }) ==
        "gradients of -1x6, expected extents >= 0 (out x in)");
  CHECK(message_of<ShapeError>([&] { sums.merge(ctx, Sums(ctx, 4, 5)); }) ==
        "accumulator is 4x5, expected 4x6 (out x in of this accumulator)");
  Sums poisoned(ctx, 4, 6);
  poisoned.add(ctx, Matrix<float>(4, 6).view());
  const_cast<double*>(poisoned.gram(GradientSide::in).data)[7] = NAN;
  CHECK(message_of<NonFiniteError>([&] { sums.merge(ctx, poisoned); }) ==
        "merge: the other accumulator's sums of the in side hold NaN or Inf, expected finite numbers");
  CHECK(sums.count() == 0);
  HosvdOptions options;
  options.normalize = true;
  CHECK(message_of<ValueError>([&] { sums.merge(ctx, Sums(ctx, 4, 6, options)); }) ==
        "merge: one accumulator normalises its gradients, the other does not");
  options = {};
  options.in_side = false;
  CHECK(message_of<ValueError>([&] { sums.merge(ctx, Sums(ctx, 4, 6, options)); }) ==
        "merge: on the in side one accumulator holds Gram sums, the other nothing");
  options = {};
  options.gram_limit_bytes = 200;  // in: 6 * 6 * 8 = 288, a column of the sketch 6 * 12 = 72
  CHECK(message_of<ValueError>([&] { sums.merge(ctx, Sums(ctx, 4, 6, options)); }) ==
        "merge: on the in side one accumulator holds Gram sums, the other a sketch of 2 columns");
  HosvdOptions seeded = options;
  seeded.sketch_seed = 9;
  CHECK(message_of<ValueError>([&] { Sums(ctx, 4, 6, options).merge(ctx, Sums(ctx, 4, 6, seeded)); }) ==
        "merge: the sketches of the in side have the seeds 1 and 9");
  options.sketch_columns = 3;
  CHECK(message_of<ValueError>([&] { Sums(ctx, 4, 6, options); }) ==
        "sketch of the in side, extent 6, of 3 columns at 72 bytes each: gram_limit_bytes = 200 allows 2");
  options.sketch_columns = 0;
  options.gram_limit_bytes = 10;
  CHECK_THROWS_AS(Sums(ctx, 4, 6, options), ValueError);
  options.gram_limit_bytes = -1;
  CHECK(message_of<ValueError>([&] { Sums(ctx, 4, 6, options); }) ==
        "gram_limit_bytes is -1 and sketch_columns 0, expected >= 0");
}

TEST_CASE("HosvdAccumulator: a sketch has at most 512 columns unless more are asked for") {
  using Sums = HosvdAccumulator<float, backend::Reference>;
  HosvdOptions options;
  options.in_side = false;
  options.gram_limit_bytes = 31000000;  // below 2000 * 2000 doubles, and 1291 columns of a sketch
  CHECK(Sums::bytes_for(2000, 1, options) == 2000 * 512 * 12);
  options.sketch_columns = 1000;
  CHECK(Sums::bytes_for(2000, 1, options) == 2000 * 1000 * 12);
  options.sketch_columns = 0;
  options.gram_limit_bytes = 2000 * 12 * 300;
  CHECK(Sums::bytes_for(2000, 1, options) == 2000 * 300 * 12);
}
