// The GPU's kernels of the engine on Thrust's host system: against torch's goldens, and against the CPU's engine with
// everything on that the goldens leave out.
#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_layer_ops.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "models/host_backend.hpp"

#include "checkpoints/hf_directory_impl.hpp"
#include "models/encoder/encoder_model_impl.hpp"
#include "models/parameters/parameter_set_impl.hpp"
#include "support/device_engine.hpp"
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

}  // namespace

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
