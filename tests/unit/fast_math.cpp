// Compiled with -Ofast: what the library says of NaN and Inf holds in a program that lets the compiler take every number
// for finite. NaN is made and looked for by its bits here, as std::isnan says no in this file.
#include <sparsegrad/sparsegrad.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "sparsegrad/backend/reference.hpp"
#include "sparsegrad/core/float_bits.hpp"
#include "sparsegrad/io/state_file.hpp"

using namespace sparsegrad;

namespace {

#if !defined(__FAST_MATH__)
#error "this file is to be compiled with -Ofast"
#endif

template <class T, class Bits>
T from_bits(Bits bits) {
  static_assert(sizeof(T) == sizeof(Bits));
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Not constants, which a compiler might fold away.
float float_nan() {
  volatile std::uint32_t bits = 0x7FC00000U;
  return from_bits<float, std::uint32_t>(bits);
}
float float_inf() {
  volatile std::uint32_t bits = 0x7F800000U;
  return from_bits<float, std::uint32_t>(bits);
}
double double_nan() {
  volatile std::uint64_t bits = 0x7FF8000000000000U;
  return from_bits<double, std::uint64_t>(bits);
}
double double_inf() {
  volatile std::uint64_t bits = 0xFFF0000000000000U;  // -Inf
  return from_bits<double, std::uint64_t>(bits);
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

/// A layer with its gradient, in a group of one.
template <class B>
struct Model {
  static constexpr index_t in = 24, out = 40, tokens = 16;
  typename B::Context ctx{1};
  std::vector<float> w = std::vector<float>(in * out, 0.5F);
  std::vector<float> x = std::vector<float>(tokens * in);
  std::vector<float> y = std::vector<float>(tokens * out);
  std::vector<float> dy = std::vector<float>(tokens * out);
  SparseGradLinear<float, B> layer{ctx, {w.data(), out, in}, nullptr};
  SparseGradGroup<float, B> group{{.density = 0.05}};

  Model() {
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = 0.01F * static_cast<float>(i % 17);
    for (std::size_t i = 0; i < dy.size(); ++i)
      dy[i] = 0.01F * static_cast<float>(i % 13) - 0.05F;
    group.add(ctx, layer, "up");
  }
  void backward() {
    const auto saved = layer.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
    layer.backward(ctx, {dy.data(), tokens, out}, saved, {}, nullptr);
  }
  bool unchanged() const {
    return std::all_of(w.begin(), w.end(),
                       [](const float& v) { return from_bits<std::uint32_t>(v) == 0x3F000000U; });  // 0.5
  }
};

template <class T>
std::vector<T> numbers(index_t n) {
  std::vector<T> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<T>(i % 7) - T(3);
  return x;
}

}  // namespace

TEST_CASE("fast math: NaN and Inf by their bits") {
  const float f[] = {float_nan(), float_inf(), 1.0F};
  const double d[] = {double_nan(), double_inf(), -0.0};
  CHECK(is_nan(f[0]));
  CHECK(is_inf(f[1]));
  CHECK(is_finite(f[2]));
  CHECK_FALSE(is_finite(f[0]));
  CHECK_FALSE(is_finite(f[1]));
  CHECK(is_nan(d[0]));
  CHECK(is_inf(d[1]));
  CHECK(is_finite(d[2]));
  CHECK_FALSE(is_nan(d[1]));
  CHECK(is_nan(bfloat16(f[0])));
  CHECK(is_inf(bfloat16(f[1])));
  CHECK(is_nan(float16(f[0])));
  CHECK(is_inf(float16(f[1])));
  CHECK(is_finite(float16(f[2])));
}

TEST_CASE_TEMPLATE("fast math: first_nonfinite, top_k, widen and round_to", B, backend::Reference,
                   backend::Cpu) {
  typename B::Context ctx(1);
  std::vector<float> x = numbers<float>(1000);
  CHECK(B::template first_nonfinite<float>(ctx, MatrixView<float>(x.data(), 10, 100)) == -1);
  x[345] = float_inf();
  x[678] = float_nan();
  CHECK(B::template first_nonfinite<float>(ctx, MatrixView<float>(x.data(), 10, 100)) == 345);
  stored_index_t index[2];
  float value[2];
  B::template top_k<float>(ctx, x.data(), 1000, 1, index, value);
  CHECK(index[0] == 678);
  CHECK(is_nan(value[0]));
  B::template top_k<float>(ctx, x.data(), 1000, 2, index, value);
  CHECK(index[0] == 345);
  CHECK(index[1] == 678);

  std::vector<bfloat16> low(1000);
  std::vector<float> back(1000);
  B::template round_to<bfloat16>(ctx, MatrixView<float>(x.data(), 1, 1000),
                                 MatrixView<bfloat16>(low.data(), 1, 1000));
  B::template widen<bfloat16>(ctx, MatrixView<bfloat16>(low.data(), 1, 1000),
                              MatrixView<float>(back.data(), 1, 1000));
  CHECK(is_inf(back[345]));
  CHECK(is_nan(back[678]));
  CHECK(back[0] == -3.0F);
}

TEST_CASE_TEMPLATE("fast math: NaN and Inf in 16 bits pass through sums, bias and products", T, bfloat16,
                   float16) {
  using B = backend::Cpu;
  typename B::Context ctx(1);
  std::vector<T> x(400, T(0.5F));  // [10, 40]
  const std::vector<T> eye(1600, T(0.25F));
  x[45] = T(float_inf());
  x[123] = T(float_nan());
  std::vector<float> sums(40, 0.0F);
  B::template column_sums<T>(ctx, MatrixView<T>(x.data(), 10, 40), sums.data());
  CHECK(sums[0] == 5.0F);
  CHECK(is_inf(sums[5]));
  CHECK(is_nan(sums[3]));
  std::vector<T> y(400, T(float_nan()));  // beta = 0 overwrites it
  std::vector<float> wide(400, float_nan());
  B::template gemm<T>(ctx, Op::none, Op::none, 1.0F, MatrixView<T>(x.data(), 10, 40),
                      MatrixView<const T>(eye.data(), 40, 40), 0.0F, MatrixView<T>(y.data(), 10, 40));
  B::template gemm_wide<T>(ctx, Op::none, Op::none, 1.0F, MatrixView<T>(x.data(), 10, 40),
                           MatrixView<const T>(eye.data(), 40, 40), 0.0F,
                           MatrixView<float>(wide.data(), 10, 40));
  CHECK(static_cast<float>(y[0]) == 5.0F);
  CHECK(wide[0] == 5.0F);
  CHECK(is_inf(y[40]));
  CHECK(is_inf(wide[40]));
  CHECK(is_nan(y[120]));
  CHECK(is_nan(wide[120]));
  const std::vector<T> bias(40, T(1.0F));
  B::template add_to_rows<T>(ctx, bias.data(), MatrixView<T>(x.data(), 10, 40));
  CHECK(static_cast<float>(x[0]) == 1.5F);
  CHECK(is_inf(x[45]));
  CHECK(is_nan(x[123]));
}

TEST_CASE("fast math: a step of a 16-bit layer refuses NaN in its gradient") {
  using B = backend::Cpu;
  B::Context ctx(1);
  std::vector<float> master(20, 0.5F);
  std::vector<bfloat16> weight(20), x(15, bfloat16(0.5F)), y(12), dx(15);
  SparseGradLinear<bfloat16, B> layer(ctx, MatrixView<bfloat16>(weight.data(), 4, 5),
                                      MatrixView<float>(master.data(), 4, 5), nullptr);
  SparseGradGroup<bfloat16, B> group;
  group.add(ctx, layer, "up");
  const auto saved =
      layer.forward(ctx, MatrixView<const bfloat16>(x.data(), 3, 5), MatrixView<bfloat16>(y.data(), 3, 4));
  y[5] = bfloat16(float_nan());
  layer.backward(ctx, MatrixView<const bfloat16>(y.data(), 3, 4), saved,
                 MatrixView<bfloat16>(dx.data(), 3, 5), nullptr);
  CHECK(contains(message_of([&] { group.step(ctx, {.learning_rate = 0.1}); }), "NaN"));
  CHECK(master == std::vector<float>(20, 0.5F));
}

TEST_CASE_TEMPLATE("fast math: a step refuses NaN in its gradient and in its options", B, backend::Reference,
                   backend::Cpu) {
  Model<B> m;
  m.backward();
  CHECK(contains(message_of([&] { m.group.step(m.ctx, {.learning_rate = double_nan()}); }),
                 "learning_rate is"));
  CHECK(contains(message_of([&] { m.group.step(m.ctx, {.learning_rate = -double_inf()}); }),
                 "learning_rate is"));
  CHECK(
      contains(message_of([&] { m.group.step(m.ctx, {.learning_rate = 0.1, .weight_decay = double_nan()}); }),
               "weight_decay is"));
  CHECK(contains(message_of([&] { m.group.step(m.ctx, {.learning_rate = 0.1, .grad_scale = double_nan()}); }),
                 "grad_scale is"));
  CHECK(m.unchanged());

  m.layer.clear(m.ctx);
  m.dy[5] = float_nan();
  m.backward();
  CHECK(contains(message_of([&] { m.group.step(m.ctx, {.learning_rate = 0.1}); }), "NaN"));
  CHECK(m.unchanged());
}

TEST_CASE_TEMPLATE("fast math: a gradient with NaN is not collected", B, backend::Reference, backend::Cpu) {
  Model<B> m;
  m.group.collect(m.ctx, {});
  m.dy[5] = float_nan();
  const std::string message = message_of([&] {
    m.backward();
    m.group.end_collecting_step(m.ctx);
  });
  CHECK(contains(message, "gradient 0 has NaN"));

  HosvdAccumulator<double, B> sums(m.ctx, 4, 5);
  std::vector<double> g = numbers<double>(20);
  sums.add(m.ctx, MatrixView<double>(g.data(), 4, 5));
  CHECK(contains(message_of([&] { sums.add(m.ctx, MatrixView<double>(g.data(), 4, 5), double_nan()); }),
                 "weight of gradient 1"));
  g[7] = double_inf();
  CHECK(contains(message_of([&] { sums.add(m.ctx, MatrixView<double>(g.data(), 4, 5)); }),
                 "has Inf at (1, 2)"));
}

TEST_CASE_TEMPLATE("fast math: top-k under each policy for NaN", B, backend::Reference, backend::Cpu) {
  typename B::Context ctx(1);
  std::vector<double> core = numbers<double>(600);
  core[123] = double_nan();
  SparseGradient<double, B> s(ctx, 20, 30, 5);
  const MatrixView<double> view(core.data(), 20, 30);
  CHECK(contains(message_of([&] { select_entries(ctx, TopK{5}, view, s); }), "holds NaN at row 4, column 3"));
  CHECK(select_entries(ctx, TopK{5}, view, s, NonFinite::skip).skipped);
  CHECK_FALSE(select_entries(ctx, TopK{5}, view, s, NonFinite::propagate).skipped);
  CHECK(s.count() == 5);
  CHECK(contains(message_of([] { TopK::fraction(double_nan(), 100); }), "density is"));
}

TEST_CASE("fast math: options and bases with NaN") {
  backend::Cpu::Context ctx(1);
  const double nan = double_nan();
  CHECK(contains(message_of([&] { SparseGradGroup<float>({.density = nan}); }), "density is"));
  CHECK(contains(message_of([&] { SparseAdam<float>(ctx, 4, 4, {.beta1 = nan}); }), "beta1 is"));
  CHECK(contains(message_of([&] { SparseAdam<float>(ctx, 4, 4, {.eps = nan}); }), "eps is"));
  CHECK(contains(message_of([&] { Truncation::energy(nan); }), "energy fraction is"));

  std::vector<double> v = {1, 0, 0, 1, 0, 0};  // [3, 2]
  std::vector<double> u = {1, 0, 0, 1};        // [2, 2]
  v[3] = nan;
  CHECK(contains(message_of([&] {
                   TuckerBasis<double>::from_factors(ctx, MatrixView<double>(v.data(), 3, 2),
                                                     MatrixView<double>(u.data(), 2, 2));
                 }),
                 "not orthonormal"));
}

TEST_CASE("fast math: a file with NaN is refused") {
  backend::Cpu::Context ctx(1);
  SparseGradient<float> delta(ctx, 3, 4, 2);
  delta.assign(ctx, std::vector<stored_index_t>{2, 7}, std::vector<float>{1.0F, float_nan()});
  const std::string path = std::string(SPARSEGRAD_TEST_OUTPUT_DIR) + "/nan.safetensors";
  io::save(ctx, path, delta);
  CHECK(contains(message_of([&] { io::load_delta<float>(ctx, path); }), "has NaN at element 1"));
}
