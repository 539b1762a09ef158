// The GPU's kernels of the engine on Thrust's host system: against torch's goldens, and against the CPU's engine with
// everything on that the goldens leave out.
#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_layer_ops.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "models/host_backend.hpp"

#include "checkpoints/hf_directory_impl.hpp"
#include "models/encoder/encoder_model_impl.hpp"
#include "models/layers/host/layer_ops.hpp"
#include "models/parameters/parameter_set_impl.hpp"
#include "support/device_engine.hpp"
#include "support/padded_matrix.hpp"
#include "training/optimizer/adamw_impl.hpp"

namespace sparsegrad::finetune {

extern template class ParameterSet<double, HostBackend>;
extern template class EncoderModel<double, HostBackend>;
extern template class AdamW<double, HostBackend>;
template class ParameterSet<float, DeviceBackend>;
template class EncoderModel<float, DeviceBackend>;
template class AdamW<float, DeviceBackend>;
template class ParameterSet<double, DeviceBackend>;
template class EncoderModel<double, DeviceBackend>;
template class AdamW<double, DeviceBackend>;

namespace test {
namespace {

using Blas = HostBackend;

ModelConfig small_config() {
  ModelConfig config;
  config.vocab_size = 50;
  config.max_positions = 600;
  config.layers = 2;
  config.hidden = 24;
  config.heads = 3;
  config.intermediate = 40;
  config.num_labels = 3;
  config.set_dropout(0.2);
  return config;
}

/// Sequences of many lengths, one of them longer than a block has threads; padded rows where `padded` > 0.
Batch long_batch(index_t padded) {
  Batch batch;
  std::int32_t number = 0;
  for (const index_t length : {1, 17, 200, 33}) {
    std::vector<std::int32_t> ids, types;
    for (index_t i = 0; i < length; ++i) {
      ids.push_back(number++ * 7 % 50);
      types.push_back(i > length / 2 ? 1 : 0);
    }
    batch.add(ids, types, static_cast<float>(length % 3), padded);
  }
  return batch;
}

struct Pass {
  double loss = 0;
  double norm = 0;  ///< of all dense gradients
  std::vector<std::vector<double>> gradients, weights;
};

/// Two passes and a step.
template <class Backend>
Pass run(const TrainedParts& trained, const Batch& batch) {
  typename Backend::Context ctx = [] {
    if constexpr (std::is_same_v<Backend, Blas>) {
      return typename Backend::Context(1);
    } else {
      return typename Backend::Context();
    }
  }();
  EncoderModel<double, Backend> model(ctx, small_config(), trained);
  model.initialize(5);
  Pass pass;
  for (const std::uint64_t key : {1, 2}) {
    pass.loss = model.forward(ctx, batch, {.training = true, .dropout_key = key}).loss;
    model.backward(ctx, batch, 0.5);
  }
  std::vector<typename AdamW<double, Backend>::Segment> segments;
  for (auto& p : model.parameters().all()) {
    if (!p.gradient.empty())
      segments.push_back({p.name, p.weight.data, p.gradient.data, p.weight.size(), 0.1});
  }
  AdamW<double, Backend> adam(ctx, std::move(segments));
  pass.norm = adam.gradient_norm(ctx);
  for (auto& p : model.parameters().all()) {
    if (!p.gradient.empty()) pass.gradients.push_back(model.values(p.gradient));
  }
  for (auto& layer : model.mlp())
    pass.gradients.push_back(model.values(layer.core(ctx)));
  adam.step(ctx, {.learning_rate = 1e-2, .grad_scale = 0.5, .clear_gradients = true});
  CHECK(adam.gradient_norm(ctx) == 0);
  for (auto& p : model.parameters().all())
    pass.weights.push_back(model.values(p.weight));
  return pass;
}

void check_near(const std::vector<std::vector<double>>& found, const std::vector<std::vector<double>>& wanted,
                double tolerance) {
  REQUIRE(found.size() == wanted.size());
  for (std::size_t a = 0; a < found.size(); ++a) {
    CAPTURE(a);
    double worst = 0;
    double most = 0;
    for (std::size_t i = 0; i < found[a].size(); ++i) {
      worst = std::max(worst, std::abs(found[a][i] - wanted[a][i]));
      most = std::max(most, std::abs(wanted[a][i]));
    }
    CHECK(worst <= tolerance * std::max(most, 1.0));
  }
}

void check_same(const TrainedParts& trained, const Batch& batch) {
  const Pass wanted = run<Blas>(trained, batch);
  const Pass found = run<DeviceBackend>(trained, batch);
  CHECK(found.loss == doctest::Approx(wanted.loss).epsilon(1e-12));
  CHECK(found.norm == doctest::Approx(wanted.norm).epsilon(1e-10));
  check_near(found.gradients, wanted.gradients, 1e-11);
  // Adam divides small gradients by their own size.
  check_near(found.weights, wanted.weights, 1e-5);
}
using sparsegrad::test::PaddedMatrix;

/// The same numbers in T, for the GPU's kernels in the host's memory, and in double.
template <class T>
struct InBoth {
  PaddedMatrix<T> low;
  PaddedMatrix<double> wide;

  InBoth(index_t rows, index_t cols, index_t padding, unsigned seed)
      : low(rows, cols, padding), wide(rows, cols) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j)
        low.view()(i, j) = static_cast<T>(normal(random));
    widen();
  }
  void widen() {
    for (index_t i = 0; i < low.rows(); ++i)
      for (index_t j = 0; j < low.cols(); ++j)
        wide.view()(i, j) = static_cast<double>(low(i, j));
  }
  void check(const char* what) const {
    CAPTURE(what);
    CHECK(low.padding_untouched());
    const double tolerance = is_low_precision<T>         ? low_precision_epsilon<T>
                             : std::is_same_v<T, double> ? 1e-12
                                                         : 2e-6;
    double worst = 0;
    for (index_t i = 0; i < low.rows(); ++i)
      for (index_t j = 0; j < low.cols(); ++j)
        worst = std::max(worst,
                         std::abs(static_cast<double>(low(i, j)) - wide(i, j)) / (1 + std::abs(wide(i, j))));
    CHECK(worst <= tolerance);
  }
};

/// Of the columns: parameters, or sums that passes add to.
template <class C>
struct ColumnsInBoth {
  std::vector<C> low;
  std::vector<double> wide;

  ColumnsInBoth(index_t n, unsigned seed) {
    std::mt19937_64 random(seed);
    low = sparsegrad::test::normal<C>(random, n);
    wide.assign(low.begin(), low.end());
  }
  void check(const char* what) const {
    CAPTURE(what);
    double worst = 0;
    for (std::size_t j = 0; j < low.size(); ++j)
      worst = std::max(worst, std::abs(static_cast<double>(low[j]) - wide[j]));
    CHECK(worst <= (std::is_same_v<C, double> ? 1e-11 : 1e-4));
  }
};

}  // namespace

TEST_CASE_TEMPLATE("passes of the encoder: whole packs, padded and odd rows, more columns than a block takes",
                   T, double, float, bfloat16, float16) {
  using C = compute_t<T>;
  using Kernels = LayerOps<sparsegrad::backend::ThrustHost>;
  using Plain = LayerOps<Blas>;
  sparsegrad::backend::ThrustHost::Context ctx;
  Blas::Context cpu(1);
  struct Shape {
    index_t rows, cols, padding;
  };
  for (const Shape& shape : {Shape{5, 48, 0}, Shape{75, 1200, 8}, Shape{66, 601, 3}}) {
    const index_t rows = shape.rows;
    const index_t cols = shape.cols;
    const index_t padding = shape.padding;
    for (const double probability : {0.0, 0.3}) {
      CAPTURE(cols);
      CAPTURE(probability);
      const Dropout<C> dropout(probability, 9);
      const Dropout<double> wide_dropout(probability, 9);
      const bool more = probability > 0;  // an extra gradient, and sums; else neither
      ColumnsInBoth<C> gamma(cols, 1), beta(cols, 2), bias(cols, 3), d_gamma(cols, 4), d_beta(cols, 5),
          d_bias(cols, 6);
      const LayerNorm<C> norm{gamma.low.data(), beta.low.data(), more ? d_gamma.low.data() : nullptr,
                              more ? d_beta.low.data() : nullptr, C(1e-5)};
      const LayerNorm<double> wide_norm{gamma.wide.data(), beta.wide.data(),
                                        more ? d_gamma.wide.data() : nullptr,
                                        more ? d_beta.wide.data() : nullptr, static_cast<double>(C(1e-5))};
      const auto count = static_cast<std::size_t>(rows);
      std::vector<C> rstd(count);
      std::vector<double> wide_rstd(count);
      InBoth<T> x(rows, cols, padding, 1), residual(rows, cols, padding, 2), y(rows, cols, padding, 3),
          g(rows, cols, padding, 4), extra(rows, cols, padding, 5), dx(rows, cols, padding, 6);
      Kernels::residual_norm_forward<T>(ctx, norm, dropout, bias.low.data(), x.low.view(),
                                        residual.low.view(), rstd.data(), y.low.view());
      Plain::residual_norm_forward<double>(cpu, wide_norm, wide_dropout, bias.wide.data(), x.wide.view(),
                                           residual.wide.view(), wide_rstd.data(), y.wide.view());
      x.check("xhat");
      y.check("y");
      x.widen();
      wide_rstd.assign(rstd.begin(), rstd.end());
      Kernels::residual_norm_backward<T>(ctx, norm, dropout, x.low.view(), rstd.data(), g.low.view(),
                                         more ? extra.low.const_view() : MatrixView<const T>(), dx.low.view(),
                                         more ? d_bias.low.data() : nullptr);
      Plain::residual_norm_backward<double>(cpu, wide_norm, wide_dropout, x.wide.view(), wide_rstd.data(),
                                            g.wide.view(),
                                            more ? extra.wide.const_view() : MatrixView<const double>(),
                                            dx.wide.view(), more ? d_bias.wide.data() : nullptr);
      g.check("dz");
      dx.check("dx");
      d_gamma.check("d_gamma");
      d_beta.check("d_beta");
      d_bias.check("d_bias");

      ColumnsInBoth<C> sums(cols, 7);
      InBoth<T> h(rows, cols, padding, 7), out(rows, cols, padding, 8), d(rows, cols, padding, 9);
      Kernels::gelu_forward<T>(ctx, bias.low.data(), h.low.view(), out.low.view());
      Plain::gelu_forward<double>(cpu, bias.wide.data(), h.wide.view(), out.wide.view());
      h.check("gelu'");
      out.check("gelu");
      h.widen();
      Kernels::gelu_backward<T>(ctx, h.low.view(), d.low.view(), more ? sums.low.data() : nullptr);
      Plain::gelu_backward<double>(cpu, h.wide.view(), d.wide.view(), more ? sums.wide.data() : nullptr);
      d.check("gelu backward");
      sums.check("its sums");
      d.widen();
      Kernels::column_sums<T>(ctx, d.low.view(), sums.low.data());
      Plain::column_sums<double>(cpu, d.wide.view(), sums.wide.data());
      sums.check("column sums");
      Kernels::apply_mask<T>(ctx, dropout, d.low.view());
      Plain::apply_mask<double>(cpu, wide_dropout, d.wide.view());
      d.check("mask");
    }
  }
}

TEST_CASE_TEMPLATE("GELU of 16 bits: of every number the exact one, to a thirtieth of its rounding", T,
                   bfloat16, float16) {
  constexpr double part = low_precision_epsilon<float16> / 2 / 30;
  constexpr double least = 0x1p-126;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = T::from_bits(static_cast<std::uint16_t>(bits));
    const auto exact = static_cast<double>(x);
    if (!(std::abs(exact) < 1e38)) continue;
    const device::Gelu<float> found = device::gelu_for<T>(x);
    const double phi = 0.5 * std::erfc(-exact * 0.70710678118654752440);
    const double bell = exact * std::exp(-0.5 * exact * exact) * 0.39894228040143267794;
    if (!(std::abs(static_cast<double>(found.value) - exact * phi) <= part * std::abs(exact * phi) + least) ||
        !(std::abs(static_cast<double>(found.slope) - (phi + bell)) <=
          part * (phi + std::abs(bell)) + least)) {
      CAPTURE(x);
      CAPTURE(found.value);
      CAPTURE(found.slope);
      FAIL_CHECK("gelu ", exact * phi, ", its slope ", phi + bell);
    }
  }
  for (const float x : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const device::Gelu<float> found = device::gelu_for<T>(x);
    const device::Gelu<float> exact = device::gelu_for<float>(x);
    CHECK(std::memcmp(&found.value, &exact.value, sizeof(float)) == 0);
    CHECK((found.slope == found.slope) == (exact.slope == exact.slope));
  }
}

TEST_CASE("device engine equals the CPU's: dropout, padding, long sequences, LoRA, meProp, frozen parts") {
  TrainedParts lora;
  lora.mlp.matrices = false;
  lora.mlp.lora_rank = 3;
  TrainedParts meprop;
  meprop.mlp.meprop_share = 0.2;
  TrainedParts frozen;
  frozen.mlp.matrices = false;
  frozen.dense = [](std::string_view name) { return name.ends_with("dense.bias"); };
  for (const TrainedParts& trained : {TrainedParts(), lora, meprop, frozen}) {
    for (const index_t padded : {0, 210}) {
      CAPTURE(trained.mlp.lora_rank);
      CAPTURE(trained.mlp.meprop_share);
      CAPTURE(trained.mlp.matrices);
      CAPTURE(padded);
      check_same(trained, long_batch(padded));
    }
  }
}

TEST_CASE("device engine equals the CPU's: more tokens than models of 512 positions have") {
  Batch batch;
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 577; ++i)
    ids.push_back(i * 7 % 50);
  batch.add(ids, {}, 1);
  check_same({}, batch);
}

TEST_CASE("device engine: heads that are too wide are refused") {
  DeviceBackend::Context ctx;
  ModelConfig wide = small_config();
  wide.hidden = 3 * 136;
  EncoderModel<float, DeviceBackend> model(ctx, wide);
  CHECK_THROWS_WITH_AS(model.reserve(ctx, 8, 1, 8),
                       "attention on the GPU: heads of size 136, expected at most 128", ShapeError);
}

TEST_CASE("rows of a table: every token in one piece, pieces of a group together") {
  DeviceBackend::Context ctx;
  PlacedBatch<DeviceBackend> placed;
  const Batch batch = long_batch(0);
  placed.place(ctx, batch, true);
  using sparsegrad::test::to_host;
  const BatchArrays& a = placed.arrays();
  for (const auto& [groups, rows] : {std::pair{a.by_id, &batch.ids}, {a.by_type, &batch.type_ids}}) {
    const auto order = to_host<DeviceBackend>(ctx, groups.order, batch.tokens());
    const auto begin = to_host<DeviceBackend>(ctx, groups.piece_begin, groups.pieces + 1);
    const auto pieces = to_host<DeviceBackend>(ctx, groups.group_begin, groups.groups + 1);
    const auto row = to_host<DeviceBackend>(ctx, groups.row, groups.groups);
    std::vector<bool> seen(static_cast<std::size_t>(batch.tokens()));
    for (std::size_t u = 0; u < row.size(); ++u) {
      for (auto p = static_cast<std::size_t>(pieces[u]); p < static_cast<std::size_t>(pieces[u + 1]); ++p) {
        CHECK(begin[p + 1] - begin[p] >= 1);
        CHECK(begin[p + 1] - begin[p] <= RowGroups::piece);
        for (auto e = static_cast<std::size_t>(begin[p]); e < static_cast<std::size_t>(begin[p + 1]); ++e) {
          const auto token = static_cast<std::size_t>(order[e]);
          CHECK((*rows)[token] == row[u]);
          CHECK(!seen[token]);
          seen[token] = true;
        }
      }
    }
    CHECK(std::count(seen.begin(), seen.end(), true) == batch.tokens());
  }
}

}  // namespace test
}  // namespace sparsegrad::finetune
