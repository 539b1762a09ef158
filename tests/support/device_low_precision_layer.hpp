// Layers and groups whose parameters are stored in bfloat16 or float16 against layers in float on backend::Reference: a
// file that includes this names the backend first, as `DeviceBackend`, with a Context that is made without arguments.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "device_memory.hpp"

namespace sparsegrad::test {

using Float = SparseGradLinear<float, backend::Reference>;
using FloatBasis = TuckerBasis<float, backend::Reference>;

template <class T>
Host<T> rounded(const Host<float>& x) {
  Host<T> y;
  for (const float v : x)
    y.push_back(T(v));
  return y;
}
template <class T>
Host<float> widened(const Host<T>& x) {
  return Host<float>(x.begin(), x.end());
}

/// |A| |B| or |A| |B|^T of matrices [m, k], [k, n] or [n, k]: what bounds of rounding errors are made of.
inline Host<float> magnitudes(const Host<float>& a, const Host<float>& b, index_t m, index_t k, index_t n,
                              bool transposed) {
  Host<float> c(static_cast<std::size_t>(m * n), 0.0F);
  for (index_t i = 0; i < m; ++i)
    for (index_t l = 0; l < k; ++l)
      for (index_t j = 0; j < n; ++j)
        c[static_cast<std::size_t>(i * n + j)] +=
            std::abs(a[static_cast<std::size_t>(i * k + l)] *
                     b[static_cast<std::size_t>(transposed ? j * k + l : l * n + j)]);
  return c;
}

inline Host<float> transposed(const Host<float>& a, index_t rows, index_t cols) {
  Host<float> b(a.size());
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j)
      b[static_cast<std::size_t>(j * rows + i)] = a[static_cast<std::size_t>(i * cols + j)];
  return b;
}

inline BasisSide<float, backend::Reference> low_precision_test_side(backend::Reference::Context& ctx,
                                                                    const std::string& kind, index_t n) {
  using Side = BasisSide<float, backend::Reference>;
  if (kind == "identity") return Side::identity(n);
  if (kind == "hadamard") return Side::hadamard(ctx, n, 3);
  return Side::random(ctx, n, kind == "full" ? n : n / 3, 7);
}

/// U [n, r] of any side.
inline Host<float> side_matrix(backend::Reference::Context& ctx,
                               const BasisSide<float, backend::Reference>& side) {
  const index_t n = side.extent();
  Host<float> eye(static_cast<std::size_t>(n * n), 0.0F);
  for (index_t i = 0; i < n; ++i)
    eye[static_cast<std::size_t>(i * n + i)] = 1;
  Host<float> u(static_cast<std::size_t>(n * side.rank()));
  side.project_columns(ctx, MatrixView<const float>(eye.data(), n, n),
                       MatrixView<float>(u.data(), n, side.rank()));
  return u;
}

/// A layer in T on the device and one in float on the host, of the same numbers.
template <class T>
struct LayerPair {
  using B = DeviceBackend;
  using LowPrecision = SparseGradLinear<T, B>;
  static constexpr index_t out = 20;
  static constexpr index_t in = 24;
  static constexpr index_t tokens = 13;
  static constexpr double eps = low_precision_epsilon<T>;

  explicit LayerPair(LinearOptions options)
      : w(widened(rounded<T>(normal<float>(random, out * in, 0.3)))),
        b(widened(rounded<T>(normal<float>(random, out)))),
        x(widened(rounded<T>(normal<float>(random, tokens * in)))),
        dy(widened(rounded<T>(normal<float>(random, tokens * out)))),
        host_w(w),
        device_w(to_device<B>(ctx, rounded<T>(w))),
        device_master(to_device<B>(ctx, w)),
        device_b(to_device<B>(ctx, rounded<T>(b))) {
    // Against a float layer; what rotations in terms of bfloat16 lose: unit/onednn_rotations.cpp.
    options.rotations = RotationPrecision::full;
    rows = options.layout == WeightLayout::out_in ? out : in;
    cols = out + in - rows;
    wide = std::make_unique<Float>(host, MatrixView<float>(host_w.data(), rows, cols), b.data(), options);
    low = std::make_unique<LowPrecision>(ctx, device_w.matrix(rows, cols), device_master.matrix(rows, cols),
                                         device_b.data(), options);
  }

  void set_basis(const std::string& out_kind, const std::string& in_kind) {
    basis = FloatBasis::from_sides(low_precision_test_side(host, out_kind, out),
                                   low_precision_test_side(host, in_kind, in));
    wide->set_basis(host, basis);
    device_basis = basis->template to<B>(host, ctx);
    low->set_basis(ctx, device_basis);
    v = side_matrix(host, basis->out());
    u = side_matrix(host, basis->in());
  }

  struct Outputs {
    Host<float> y, dx, db;
  };
  Outputs run_wide() { return run_wide(*wide); }
  Outputs run_low(bool keep) { return run_low(*low, keep); }
  /// Of a layer, or an adapter.
  template <class L>
  Outputs run_wide(L& layer) {
    Outputs o{Host<float>(tokens * out), Host<float>(tokens * in), Host<float>(out, 0.0F)};
    const auto saved = layer.forward(host, MatrixView<const float>(x.data(), tokens, in),
                                     MatrixView<float>(o.y.data(), tokens, out));
    layer.backward(host, MatrixView<const float>(dy.data(), tokens, out), saved,
                   MatrixView<float>(o.dx.data(), tokens, in), o.db.data());
    return o;
  }
  template <class L>
  Outputs run_low(L& layer, bool keep) {
    const auto dev_x = to_device<B>(ctx, rounded<T>(x));
    const auto dev_dy = to_device<B>(ctx, rounded<T>(dy));
    Buffer<T, B> y(ctx, tokens * out);
    Buffer<T, B> dx(ctx, tokens * in);
    Buffer<float, B> db(ctx, out);
    Buffer<T, B> kept(ctx, tokens * layer.kept_cols());
    const MatrixView<T> keep_view = keep ? kept.matrix(tokens, layer.kept_cols()) : MatrixView<T>();
    const SavedInput<T> saved =
        layer.forward(ctx, dev_x.matrix(tokens, in), y.matrix(tokens, out), keep_view);
    layer.backward(ctx, dev_dy.matrix(tokens, out), saved, dx.matrix(tokens, in), db.data());
    return {widened(to_host<B>(ctx, y.data(), y.size())), widened(to_host<B>(ctx, dx.data(), dx.size())),
            to_host<B>(ctx, db.data(), out)};
  }
  Host<float> low_core() {
    const MatrixView<float> core = low->core(ctx);
    return to_host<B>(ctx, core.data, core.size());
  }
  Host<float> wide_core() {
    const MatrixView<float> core = wide->core(host);
    return Host<float>(core.data, core.data + core.size());
  }
  Host<T> weight() { return to_host<B>(ctx, device_w.data(), device_w.size()); }
  Host<float> master() { return to_host<B>(ctx, device_master.data(), device_master.size()); }
  /// W [out, in] whatever the layout.
  Host<float> out_in(const Host<float>& stored) const {
    return rows == out ? stored : transposed(stored, in, out);
  }

  std::mt19937_64 random{11};
  typename B::Context ctx;
  backend::Reference::Context host;
  Host<float> w, b, x, dy, host_w;
  Buffer<T, B> device_w;
  Buffer<float, B> device_master;
  Buffer<T, B> device_b;
  index_t rows = 0, cols = 0;
  std::unique_ptr<Float> wide;
  std::unique_ptr<LowPrecision> low;
  FloatBasis::Pointer basis;
  typename TuckerBasis<float, B>::Pointer device_basis;
  Host<float> v, u;
};

/// Whether every |a - b| <= factor scale + 1e-6 max(scale), entry by entry; half's subnormals are below the latter.
inline bool near(const Host<float>& a, const Host<float>& b, const Host<float>& scale, double factor) {
  const auto most = static_cast<double>(scale.empty() ? 0.0F : *std::max_element(scale.begin(), scale.end()));
  bool right = a.size() == b.size() && a.size() == scale.size();
  for (std::size_t e = 0; right && e < a.size(); ++e) {
    right = std::abs(static_cast<double>(a[e]) - static_cast<double>(b[e])) <=
            factor * static_cast<double>(scale[e]) + 1e-6 * most;
  }
  return right;
}
inline Host<float> absolute(Host<float> x) {
  for (float& v : x)
    v = std::abs(v);
  return x;
}

template <class T>
void check_low_precision_layer(const std::string& out_kind, const std::string& in_kind, WeightLayout layout,
                               Plan plan, bool keep) {
  CAPTURE(out_kind);
  CAPTURE(in_kind);
  CAPTURE(to_string(plan));
  CAPTURE(keep);
  CAPTURE(static_cast<int>(layout));
  using P = LayerPair<T>;
  LinearOptions options;
  options.layout = layout;
  options.plan = plan;
  P pair(options);
  pair.set_basis(out_kind, in_kind);
  const Plan taken = pair.low->plan();
  const auto expected = pair.run_wide();
  const auto found = pair.run_low(keep);
  pair.run_wide();
  pair.run_low(!keep);  // two passes add up

  // y: rounded once after the product and once after the bias; dX once; db not.
  Host<float> y_scale = absolute(expected.y);
  for (std::size_t e = 0; e < y_scale.size(); ++e)
    y_scale[e] = std::max(y_scale[e], std::abs(expected.y[e] - pair.b[e % P::out]));
  CHECK(near(found.y, expected.y, y_scale, P::eps * 1.01));
  CHECK(near(found.dx, expected.dx, absolute(expected.dx), P::eps * 0.505));
  CHECK(near(found.db, expected.db, absolute(expected.db), 1e-5));

  // A projected side is rounded twice, its factor and its product, each by eps / 2 of |dY| |V| at most.
  const double out_error = taken.out == SideOrder::project_first ? P::eps : 0;
  const double in_error = taken.in == SideOrder::project_first ? P::eps : 0;
  const index_t r = pair.basis->rows();
  const index_t c = pair.basis->cols();
  const Host<float> left = magnitudes(pair.dy, pair.v, P::tokens, P::out, r, false);
  const Host<float> right = magnitudes(pair.x, pair.u, P::tokens, P::in, c, false);
  Host<float> scale = magnitudes(transposed(left, P::tokens, r), right, r, P::tokens, c, false);
  for (float& s : scale)
    s *= 2;  // passes
  const Host<float> core = pair.low_core();
  CHECK(near(core, pair.wide_core(), scale, out_error + in_error + out_error * in_error + 1e-6));
}

TEST_CASE_TEMPLATE(
    "a low-precision layer equals the float layer on the same numbers to the roundings that it makes", T,
    bfloat16, float16) {
  const std::vector<std::pair<std::string, std::string>> sides = {
      {"identity", "identity"}, {"full", "full"},      {"third", "identity"},
      {"identity", "third"},    {"third", "hadamard"}, {"hadamard", "full"}};
  for (const auto& [out, in] : sides) {
    for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      for (const SideOrder o : {SideOrder::multiply_first, SideOrder::project_first}) {
        for (const SideOrder i : {SideOrder::multiply_first, SideOrder::project_first})
          check_low_precision_layer<T>(out, in, layout, {o, i}, i == SideOrder::project_first);
      }
    }
  }
}

TEST_CASE_TEMPLATE("apply moves the master, and the weight is the rounded master", T, bfloat16, float16) {
  using B = DeviceBackend;
  for (const auto& [out_kind, in_kind] :
       {std::pair("full", "full"), std::pair("third", "hadamard"), std::pair("identity", "third"),
        std::pair("identity", "identity")}) {
    for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      for (const index_t kept : {index_t{9}, index_t{0}}) {  // sparse; all entries
        const std::string name = out_kind;
        CAPTURE(name);
        CAPTURE(kept);
        LinearOptions options;
        options.layout = layout;
        LayerPair<T> pair(options);
        pair.set_basis(out_kind, in_kind);
        pair.run_wide();
        const index_t core = pair.basis->rows() * pair.basis->cols();
        const index_t k = kept == 0 ? core : kept;
        SparseGradient<float, backend::Reference> d(pair.host, pair.basis->rows(), pair.basis->cols(), k);
        pair.wide->select(pair.host, TopK{k}, d);
        for (index_t e = 0; e < k; ++e)
          d.values()[e] *= -1e-2F;
        SparseGradient<float, B> device_d(pair.ctx, d.rows(), d.cols(), k);
        Host<stored_index_t> index;
        for (index_t e = 0; e < k; ++e)
          index.push_back(d.dense() ? static_cast<stored_index_t>(e) : d.indices()[e]);
        const Host<float> values(d.values(), d.values() + k);
        device_d.assign(pair.ctx, index, values);
        pair.wide->apply(pair.host, d, 0.01);
        pair.low->apply(pair.ctx, device_d, 0.01);
        const Host<float> master = pair.master();
        CHECK(near(master, pair.host_w, Host<float>(master.size(), 1.0F), 1e-5));
        bool equal = true;
        bool moved = false;
        const Host<T> weight = pair.weight();
        for (std::size_t e = 0; e < master.size(); ++e) {
          equal = equal && weight[e].bits == T(master[e]).bits;
          moved = moved || master[e] != pair.w[e];
        }
        CHECK(equal);
        CHECK(moved);
      }
    }
  }
}

TEST_CASE_TEMPLATE("updates below half a unit of the weight's last place add up in the master", T, bfloat16,
                   float16) {
  using B = DeviceBackend;
  typename B::Context ctx;
  constexpr index_t n = 4;
  constexpr index_t stride = 7;  // of the master
  constexpr float unit = static_cast<float>(low_precision_epsilon<T>);
  const float step = unit / 8;  // 1 + step and 1 - step round to 1
  auto weight = to_device<B>(ctx, Host<T>(n * n, T(0.0F)));
  auto master = to_device<B>(ctx, Host<float>(n * stride, 1.0F));
  SparseGradLinear<T, B> layer(ctx, weight.matrix(n, n), MatrixView<float>(master.data(), n, n, stride),
                               nullptr);
  CHECK(widened(to_host<B>(ctx, weight.data(), n * n)) ==
        Host<float>(n * n, 1.0F));  // the constructor rounds
  SparseGradient<float, B> d(ctx, n, n, 2);
  const Host<stored_index_t> index{3, 8};
  const Host<float> values{step, -step};
  d.assign(ctx, index, values);
  T without(1.0F);
  Host<float> expected(n * n, 1.0F);
  for (int i = 1; i <= 64; ++i) {
    layer.apply(ctx, d);
    without = T(static_cast<float>(without) + step);
    if (i == 1) {
      CHECK(widened(to_host<B>(ctx, weight.data(), n * n)) == expected);
      CHECK(to_host<B>(ctx, master.data(), master.size())[3] == 1 + step);
    }
  }
  expected[3] = 1 + 8 * unit;
  expected[8] = 1 - 8 * unit;
  CHECK(widened(to_host<B>(ctx, weight.data(), n * n)) == expected);
  CHECK(static_cast<float>(without) == 1.0F);
  const Host<float> after = to_host<B>(ctx, master.data(), master.size());
  CHECK(after[3] == expected[3]);
  CHECK(after[2 * stride] == expected[8]);
  CHECK(after[n] == 1.0F);  // behind the first row: not the layer's
}

TEST_CASE_TEMPLATE("a fixed support, gradients of the engine's own, collection", T, bfloat16, float16) {
  using B = DeviceBackend;
  LinearOptions options;
  LayerPair<T> pair(options);
  pair.set_basis("full", "third");
  const index_t r = pair.basis->rows();
  const index_t c = pair.basis->cols();
  const Host<float> left = magnitudes(pair.dy, pair.v, pair.tokens, pair.out, r, false);
  const Host<float> right = magnitudes(pair.x, pair.u, pair.tokens, pair.in, c, false);
  const Host<float> scale = magnitudes(transposed(left, pair.tokens, r), right, r, pair.tokens, c, false);
  pair.run_wide();
  const Host<float> core = pair.wide_core();

  SUBCASE("a fixed support") {
    for (const index_t k : {index_t{5}, r * c}) {
      SparseGradient<float, B> support(pair.ctx, r, c, k);
      Host<stored_index_t> index;
      for (index_t e = 0; e < k; ++e)
        index.push_back(static_cast<stored_index_t>(k == r * c ? e : 7 * e + 2));
      const Host<float> none(index.size(), 0.0F);
      support.assign(pair.ctx, index, none);
      Host<float> expected, bound;
      for (const stored_index_t e : index) {
        expected.push_back(core[static_cast<std::size_t>(e)]);
        bound.push_back(scale[static_cast<std::size_t>(e)]);
      }
      // Entries of a core.
      const auto outputs = pair.run_low(true);
      SparseGradient<float, B> s(pair.ctx, r, c, k);
      pair.low->select(pair.ctx, FixedSupport<float, B>(pair.ctx, support), s);
      pair.low->clear(pair.ctx);
      CHECK(near(to_host<B>(pair.ctx, s.values(), k), expected, bound, 2.1 * pair.eps));

      // The entries alone, by sampled products; the rest of the layer is the same.
      FixedSupportLinear<T, B> layer(pair.ctx, pair.low->trained_weight(), pair.device_b.data(),
                                     pair.device_basis, support);
      const auto x = to_device<B>(pair.ctx, rounded<T>(pair.x));
      const auto dy = to_device<B>(pair.ctx, rounded<T>(pair.dy));
      Buffer<T, B> y(pair.ctx, pair.tokens * pair.out);
      Buffer<T, B> dx(pair.ctx, pair.tokens * pair.in);
      Buffer<float, B> db(pair.ctx, pair.out);
      layer.forward(pair.ctx, x.matrix(pair.tokens, pair.in), y.matrix(pair.tokens, pair.out));
      layer.backward(pair.ctx, dy.matrix(pair.tokens, pair.out), x.matrix(pair.tokens, pair.in),
                     dx.matrix(pair.tokens, pair.in), db.data());
      CHECK(widened(to_host<B>(pair.ctx, y.data(), y.size())) == outputs.y);
      CHECK(widened(to_host<B>(pair.ctx, dx.data(), dx.size())) == outputs.dx);
      CHECK(to_host<B>(pair.ctx, db.data(), db.size()) == outputs.db);
      SparseGradient<float, B> sampled(pair.ctx, r, c, k);
      layer.gradient().select(pair.ctx, sampled);
      CHECK(near(to_host<B>(pair.ctx, sampled.values(), k), expected, bound, 2.1 * pair.eps));
    }
  }
  SUBCASE("dW of the engine's own is float and loses nothing") {
    const Host<float> dw = normal<float>(pair.random, pair.out * pair.in);
    const auto device = to_device<B>(pair.ctx, dw);
    pair.wide->clear(pair.host);
    pair.wide->add_gradient(pair.host, MatrixView<const float>(dw.data(), pair.out, pair.in));
    pair.low->add_gradient(pair.ctx, device.matrix(pair.out, pair.in));
    CHECK(near(pair.low_core(), pair.wide_core(), Host<float>(static_cast<std::size_t>(r * c), 1.0F), 1e-5));
  }
  SUBCASE("a collecting layer hands over the full gradient in float") {
    HosvdAccumulator<float, B> sums(pair.ctx, pair.out, pair.in);
    HosvdAccumulator<float, backend::Reference> expected(pair.host, pair.out, pair.in);
    pair.wide->clear(pair.host);
    pair.low->gradient().form_weight_gradient(pair.ctx, true);
    pair.wide->gradient().form_weight_gradient(pair.host, true);
    pair.run_low(true);
    pair.run_wide();
    pair.low->gradient().add_to(pair.ctx, sums, NonFinite::raise);
    pair.wide->gradient().add_to(pair.host, expected, NonFinite::raise);
    CHECK(sums.count() == 1);
    CHECK(sums.total_energy() == doctest::Approx(expected.total_energy()).epsilon(1e-5));
    // The core that follows is that of the same gradient.
    CHECK(near(pair.low_core(), pair.wide_core(), scale, 1e-5));
    const auto spectrum = [](const auto& basis) { return basis->report().out.spectrum; };
    const auto found =
        spectrum(TuckerBasis<float, B>::fit(pair.ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd()));
    const auto exact =
        spectrum(FloatBasis::fit(pair.host, expected, SideRecipe::hosvd(), SideRecipe::hosvd()));
    REQUIRE(found.size() == exact.size());
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(std::abs(found[i] - exact[i]) <= 1e-5 * exact[0]);
  }
}

TEST_CASE_TEMPLATE("a low-precision adapter computes the float adapter's numbers; merge goes to a master", T,
                   bfloat16, float16) {
  using B = DeviceBackend;
  for (const auto& [out_kind, in_kind] :
       {std::pair("full", "full"), std::pair("hadamard", "third"), std::pair("identity", "hadamard"),
        std::pair("third", "identity")}) {
    const std::string name = out_kind;
    CAPTURE(name);
    using P = LayerPair<T>;
    P pair((LinearOptions()));
    pair.set_basis(out_kind, in_kind);
    const index_t r = pair.basis->rows();
    const index_t c = pair.basis->cols();
    CoreAdapter<float, backend::Reference> wide(
        pair.host, MatrixView<const float>(pair.host_w.data(), pair.rows, pair.cols), pair.b.data(),
        pair.basis);
    // It takes no master: W is only read.
    CoreAdapter<T, B> low(pair.ctx, pair.device_w.matrix(pair.rows, pair.cols), pair.device_b.data(),
                          pair.device_basis);
    const Host<float> delta = normal<float>(pair.random, r * c, 0.2);
    Host<stored_index_t> index;
    for (index_t e = 0; e < r * c; ++e)
      index.push_back(static_cast<stored_index_t>(e));
    SparseGradient<float, backend::Reference> d(pair.host, r, c, r * c);
    SparseGradient<float, B> device_d(pair.ctx, r, c, r * c);
    d.assign(pair.host, index, delta);
    device_d.assign(pair.ctx, index, delta);
    wide.apply(pair.host, d);
    low.apply(pair.ctx, device_d);
    const auto expected = pair.run_wide(wide);
    const auto found = pair.run_low(low, true);
    // Eight roundings by eps / 2 at most of the sums of magnitudes: U, x U, Delta, the core's y, V, y three times.
    const Host<float> xu = magnitudes(pair.x, pair.u, P::tokens, P::in, c, false);
    const Host<float> core_y = magnitudes(xu, delta, P::tokens, c, r, true);
    Host<float> y_scale = magnitudes(core_y, pair.v, P::tokens, r, P::out, true);
    const Host<float> plain = magnitudes(pair.x, pair.w, P::tokens, P::in, P::out, true);
    for (std::size_t e = 0; e < y_scale.size(); ++e)
      y_scale[e] += plain[e] + std::abs(pair.b[e % P::out]);
    CHECK(near(found.y, expected.y, y_scale, 4.2 * P::eps));
    const Host<float> dyv = magnitudes(pair.dy, pair.v, P::tokens, P::out, r, false);
    const Host<float> core_x = magnitudes(dyv, delta, P::tokens, r, c, false);
    Host<float> dx_scale = magnitudes(core_x, pair.u, P::tokens, c, P::in, true);
    const Host<float> plain_dx = magnitudes(pair.dy, pair.w, P::tokens, P::out, P::in, false);
    for (std::size_t e = 0; e < dx_scale.size(); ++e)
      dx_scale[e] += plain_dx[e];
    CHECK(near(found.dx, expected.dx, dx_scale, 4.2 * P::eps));
    CHECK(widened(pair.weight()) == pair.w);

    // A matrix of T is no target of merge: it would lose what is below its last place.
    static_assert(!std::is_convertible_v<MatrixView<T>, MatrixView<float>>);
    const MatrixView<float> master = pair.device_master.matrix(pair.rows, pair.cols);
    low.merge(pair.ctx, master);
    pair.low->round_master(pair.ctx);
    wide.merge(pair.host, MatrixView<float>(pair.host_w.data(), pair.rows, pair.cols));
    CHECK(near(widened(pair.weight()), pair.host_w, Host<float>(pair.w.size(), 3.0F), P::eps));
    low.unmerge(pair.ctx, master);
    CHECK(near(pair.master(), pair.w, Host<float>(pair.w.size(), 1.0F), 1e-5));
  }
}

TEST_CASE_TEMPLATE("the core of a given gradient of 16 bits is that of the same numbers in float", T,
                   bfloat16, float16) {
  // So large that it is widened in several blocks of rows, of which the last is smaller.
  using B = DeviceBackend;
  constexpr index_t out = 530;
  constexpr index_t in = 500;
  std::mt19937_64 random(23);
  typename B::Context ctx;
  backend::Reference::Context host(1);
  using Side = BasisSide<float, backend::Reference>;
  const auto side = [&](index_t n) {
    Host<float> rows(static_cast<std::size_t>(4 * n), 0.0F);  // orthonormal: each on entries of its own
    for (index_t e = 0; e < n; ++e)
      rows[static_cast<std::size_t>(e % 4 * n + e)] =
          (e % 3 == 0 ? -1.0F : 1.0F) * std::sqrt(4.0F / static_cast<float>(n));
    return Side::from_rows(host, MatrixView<const float>(rows.data(), 4, n));
  };
  const std::vector<FloatBasis::Pointer> bases = {
      FloatBasis::identity(out, in),
      FloatBasis::from_sides(Side::identity(out), side(in)),
      FloatBasis::from_sides(side(out), Side::identity(in)),
      FloatBasis::from_sides(side(out), side(in)),
      FloatBasis::from_sides(side(out), Side::hadamard(host, in, 3)),
      FloatBasis::from_sides(Side::hadamard(host, out, 4), Side::hadamard(host, in, 5))};
  const Host<float> numbers = widened(rounded<T>(normal<float>(random, out * in)));
  for (std::size_t n = 0; n < bases.size(); ++n) {
    GivenGradient<float, backend::Reference> wide(host, out, in);
    wide.set_basis(host, bases[n]);
    wide.set({MatrixView<const float>(numbers.data(), out, in), WeightLayout::out_in});
    const MatrixView<const float> exact = wide.core(host);
    for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      CAPTURE(n);
      const bool out_in = layout == WeightLayout::out_in;
      GivenGradient<float, B> low_gradient(ctx, out, in);
      low_gradient.set_basis(ctx, bases[n]->template to<B>(host, ctx));
      const auto stored = to_device<B>(ctx, rounded<T>(out_in ? numbers : transposed(numbers, out, in)));
      low_gradient.set({MatrixView<const T>(stored.data(), out_in ? out : in, out_in ? in : out), layout});
      const MatrixView<const float> core = low_gradient.core(ctx);
      REQUIRE(core.size() == exact.size());
      CHECK(near(to_host<B>(ctx, core.data, core.size()), Host<float>(exact.data, exact.data + exact.size()),
                 Host<float>(static_cast<std::size_t>(core.size()), 1.0F), 1e-5));

      // The sums that bases are fitted from take the same numbers.
      HosvdAccumulator<float, B> sums(ctx, out, in, {.out_side = false, .in_side = false});
      low_gradient.clear();
      low_gradient.set({MatrixView<const T>(stored.data(), out_in ? out : in, out_in ? in : out), layout});
      low_gradient.add_to(ctx, sums, NonFinite::raise);
      double energy = 0;
      for (const float x : numbers)
        energy += static_cast<double>(x) * static_cast<double>(x);
      CHECK(sums.total_energy() == doctest::Approx(energy).epsilon(1e-5));
    }
  }
}

/// Master and weight after a warm-up of two steps and three more, of gradients given in G.
template <class T, class G>
std::pair<Host<float>, Host<float>> train_given(const SideRecipes& sides) {
  using B = DeviceBackend;
  constexpr index_t out = 14;
  constexpr index_t in = 10;
  std::mt19937_64 random(29);
  typename B::Context ctx;
  GroupOptions options;
  options.density = 0.2;
  options.warmup_steps = 2;
  options.recipe.sides = [&](const std::string&) { return sides; };
  SparseGradGroup<T, B> group(options);
  Buffer<float, B> master = to_device<B>(ctx, normal<float>(random, out * in));
  Buffer<T, B> weight(ctx, out * in);
  group.add_weight(ctx, weight.matrix(out, in), master.matrix(out, in), "up");
  for (int s = 0; s < 5; ++s) {
    const Host<T> numbers = rounded<T>(normal<float>(random, out * in));
    const Buffer<G, B> dw = to_device<B>(ctx, rounded<G>(widened(numbers)));
    group.set_gradient(0, MatrixView<const G>(dw.data(), out, in));
    group.step(ctx, {.learning_rate = 1e-2, .weight_decay = 0.1});
  }
  group.check(ctx);
  return {to_host<B>(ctx, master.data(), master.size()),
          widened(to_host<B>(ctx, weight.data(), weight.size()))};
}

TEST_CASE_TEMPLATE("a weight of 16 bits trains on gradients of 16 bits as on the same in float", T, bfloat16,
                   float16) {
  for (const SideRecipes& sides : {SideRecipes{}, SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(4)},
                                   SideRecipes{SideRecipe::identity(), SideRecipe::identity()},
                                   SideRecipes{SideRecipe::hadamard(), SideRecipe::hadamard()}}) {
    const auto [master, weight] = train_given<T, T>(sides);
    const auto [exact_master, exact_weight] = train_given<T, float>(sides);
    CHECK(master == exact_master);
    CHECK(weight == exact_weight);
    CHECK(weight == widened(rounded<T>(master)));
  }
}

TEST_CASE("a low-precision weight without a master is refused, as is a master of another shape") {
  using B = DeviceBackend;
  typename B::Context ctx;
  Buffer<bfloat16, B> weight(ctx, 12);
  Buffer<float, B> master(ctx, 12);
  std::string text;
  try {
    SparseGradLinear<bfloat16, B> layer(ctx, weight.matrix(3, 4), nullptr);
  } catch (const ValueError& error) {
    text = error.what();
  }
  CHECK(text.find("float master") != std::string::npos);
  CHECK_THROWS_AS((SparseGradLinear<bfloat16, B>(ctx, weight.matrix(3, 4), master.matrix(4, 3), nullptr)),
                  ShapeError);
}

/// Counts what objects allocate beside scratch.
struct CountingBackend : DeviceBackend {
  static inline int allocations = 0;
  struct Memory : DeviceBackend::Memory {
    std::byte* allocate(std::size_t bytes) {
      ++allocations;
      return DeviceBackend::Memory::allocate(bytes);
    }
  };
  static Memory memory(const Context& ctx) { return {DeviceBackend::memory(ctx)}; }
};

struct Training {
  std::vector<double> losses;
  GroupMemory memory;
  double core_norm = 0;
  bool allocated = false;
};

/// Two layers [16, 16] of one kind that learn y = x W*^T, each from its own data: two collecting steps, then 20.
template <class T, class B>
Training train_group(bool share_memory, bool project_first, const SideRecipes& rules) {
  constexpr index_t n = 16;
  constexpr index_t tokens = 32;
  std::mt19937_64 random(21);
  typename B::Context ctx;
  GroupOptions options;
  options.density = 0.25;
  options.capacity_factor = 0;
  options.share_gradient_memory = share_memory;
  SparseGradGroup<T, B> group(options);
  std::vector<Buffer<T, B>> weights;
  std::vector<Buffer<float, B>> masters;
  std::vector<std::unique_ptr<SparseGradLinear<T, B>>> layers;
  std::vector<Host<float>> targets;
  for (std::size_t i = 0; i < 2; ++i) {
    const Host<float> w = normal<float>(random, n * n, 0.3);
    targets.push_back(normal<float>(random, n * n, 0.3));
    weights.push_back(to_device<B>(ctx, rounded<T>(w)));
    masters.push_back(to_device<B>(ctx, w));
  }
  LinearOptions linear;
  if (project_first) linear.plan = Plan{SideOrder::project_first, SideOrder::project_first};
  for (std::size_t i = 0; i < 2; ++i) {
    const MatrixView<T> weight = weights[i].matrix(n, n);
    if constexpr (is_low_precision<T>) {
      layers.push_back(
          std::make_unique<SparseGradLinear<T, B>>(ctx, weight, masters[i].matrix(n, n), nullptr, linear));
    } else {
      layers.push_back(std::make_unique<SparseGradLinear<T, B>>(ctx, weight, nullptr, linear));
    }
    group.add(ctx, *layers[i], "up");
  }
  std::vector<Buffer<T, B>> xs, ys, dxs, keeps;
  std::vector<Host<float>> inputs;
  for (std::size_t i = 0; i < 2; ++i) {
    inputs.push_back(widened(rounded<T>(normal<float>(random, tokens * n))));
    xs.push_back(to_device<B>(ctx, rounded<T>(inputs.back())));
    ys.emplace_back(ctx, tokens * n);
    dxs.emplace_back(ctx, tokens * n);
    keeps.emplace_back(ctx, tokens * n);
  }
  Buffer<T, B> dy(ctx, tokens * n);
  Buffer<float, B> db(ctx, n);
  Training result;
  const auto pass = [&] {
    double loss = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      auto& layer = *layers[i];
      const index_t kept = layer.kept_cols();
      const auto saved = layer.forward(ctx, xs[i].matrix(tokens, n), ys[i].matrix(tokens, n),
                                       kept > 0 ? keeps[i].matrix(tokens, kept) : MatrixView<T>());
      const Host<T> y = to_host<B>(ctx, ys[i].data(), tokens * n);
      Host<T> gradient(y.size());
      for (index_t t = 0; t < tokens; ++t) {
        for (index_t o = 0; o < n; ++o) {
          float wanted = 0;
          for (index_t j = 0; j < n; ++j)
            wanted += inputs[i][static_cast<std::size_t>(t * n + j)] *
                      targets[i][static_cast<std::size_t>(o * n + j)];
          const auto e = static_cast<std::size_t>(t * n + o);
          const float error = static_cast<float>(y[e]) - wanted;
          loss += 0.5 * static_cast<double>(error) * static_cast<double>(error) / static_cast<double>(tokens);
          gradient[e] = T(error / static_cast<float>(tokens));
        }
      }
      B::template upload<T>(ctx, gradient.data(), dy.data(), dy.size());
      layer.backward(ctx, dy.matrix(tokens, n), saved, dxs[i].matrix(tokens, n), db.data());
      if (share_memory && !group.collecting()) group.select(ctx, static_cast<index_t>(i), true);
      if (share_memory && group.collecting()) group.end_collecting_step(ctx, static_cast<index_t>(i));
    }
    return loss;
  };
  BasisRecipe recipe;
  recipe.sides = [&](const std::string&) { return rules; };
  group.collect(ctx, recipe);
  for (int i = 0; i < 2; ++i) {
    pass();
    if (!share_memory) group.end_collecting_step(ctx);
  }
  group.refresh(ctx);
  group.reserve(ctx, tokens);
  result.memory = group.memory(ctx);
  const index_t scratch = ctx.scratch().bytes();
  const int before = CountingBackend::allocations;
  for (int i = 0; i < 20; ++i) {
    result.losses.push_back(pass());
    result.core_norm = std::sqrt(group.squared_norm(ctx));
    group.step(
        ctx,
        {.learning_rate = 2e-2, .weight_decay = 0.01, .grad_scale = std::min(1.0, 4 / result.core_norm)});
  }
  result.allocated = ctx.scratch().bytes() != scratch || CountingBackend::allocations != before;
  return result;
}

TEST_CASE_TEMPLATE("a group in T learns as one in float does, in memory made before", T, bfloat16, float16) {
  for (const bool share_memory : {false, true}) {
    for (const SideRecipes& rules : {SideRecipes{SideRecipe::hosvd(), SideRecipe::hosvd()},
                                     SideRecipes{SideRecipe::hosvd(12), SideRecipe::hosvd()},
                                     SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(14)},
                                     SideRecipes{SideRecipe::hosvd(14), SideRecipe::identity()},
                                     SideRecipes{SideRecipe::hadamard(), SideRecipe::hadamard()}}) {
      CAPTURE(share_memory);
      const auto expected = train_group<float, backend::Reference>(share_memory, !share_memory, rules);
      const auto found = train_group<T, CountingBackend>(share_memory, !share_memory, rules);
      double worst = 0;
      for (std::size_t i = 0; i < expected.losses.size(); ++i)
        worst = std::max(worst, std::abs(found.losses[i] - expected.losses[i]) / expected.losses[i]);
      CHECK(worst < 4 * low_precision_epsilon<T>);
      CHECK(found.losses.back() < 0.6 * found.losses.front());
      CHECK(found.core_norm == doctest::Approx(expected.core_norm).epsilon(8 * low_precision_epsilon<T>));
      CHECK_FALSE(found.allocated);
      // Both layers share one basis and its factors in T; a fast transform has signs alone.
      const bool factors = !std::holds_alternative<SideRecipe::Hadamard>(rules.out.choice());
      CHECK(found.memory.bases == (factors ? 3 : 2) * (expected.memory.bases / 2));
      CHECK(found.memory.gradients == expected.memory.gradients);
      CHECK(found.memory.optimizer == expected.memory.optimizer);
    }
  }
}

}  // namespace sparsegrad::test
