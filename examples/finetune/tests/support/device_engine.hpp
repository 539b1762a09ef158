// The encoder on a backend whose memory is not the host's, against torch and transformers
// (golden/make_bert_goldens.py): a file that includes this names the backend first, as `DeviceBackend`, with a
// Context that is made without arguments, and instantiates the engine for it.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/safetensors.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "checkpoints/hf_directory.hpp"
#include "golden_batch.hpp"
#include "models/encoder/encoder_model.hpp"
#include "models/layers/batch.hpp"
#include "support/device_memory.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune::test {

using DeviceContext = DeviceBackend::Context;
using DeviceModel = EncoderModel<float, DeviceBackend>;
using DeviceAdamW = AdamW<float, DeviceBackend>;
using nlohmann::json;

constexpr const char* golden_variants[] = {"classification", "regression", "roberta"};

/// A golden's directory and numbers.
struct DeviceGolden {
  explicit DeviceGolden(const char* variant)
      : directory(open_model_directory(golden_folder() / variant)),
        numbers(read_json(golden_folder() / variant / "golden.json")) {}
  ModelDirectory directory;
  json numbers;

  Batch batch(std::size_t number, bool padded) const {
    return batch_of(numbers["batches"][number], padded ? numbers["pad_to"].get<index_t>() : 0);
  }
};

inline std::vector<float> gradient_of(DeviceContext& ctx, DeviceModel& model, const std::string& name) {
  for (index_t i = 0; i < static_cast<index_t>(model.mlp().size()); ++i) {
    if (model.mlp_name(i) == name) return model.values(model.mlp()[static_cast<std::size_t>(i)].core(ctx));
  }
  return model.values(model.parameters().at(name).gradient);
}

inline double norm_of(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x)
    sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

inline std::vector<DeviceAdamW::Segment> dense_parameters(DeviceModel& model, double decay) {
  std::vector<DeviceAdamW::Segment> segments;
  for (auto& p : model.parameters().all()) {
    if (!p.gradient.empty())
      segments.push_back({p.name, p.weight.data, p.gradient.data, p.weight.size(), decay});
  }
  return segments;
}

TEST_CASE("device engine: logits, loss and every gradient equal those of transformers") {
  DeviceContext ctx;
  for (const char* variant : golden_variants) {
    for (const bool padded : {false, true}) {
      CAPTURE(variant);
      CAPTURE(padded);
      const DeviceGolden golden(variant);
      DeviceModel model(ctx, golden.directory.config);
      CHECK(load_weights(golden.directory, model, 1).text() == "");
      const Batch batch = golden.batch(0, padded);
      const auto result = model.forward(ctx, batch, {.training = true});
      const json& logits = golden.numbers["logits"];
      REQUIRE(result.logits.rows == static_cast<index_t>(logits.size()));
      for (index_t i = 0; i < result.logits.rows; ++i) {
        for (index_t c = 0; c < result.logits.cols; ++c) {
          const double wanted =
              logits[static_cast<std::size_t>(i)][static_cast<std::size_t>(c)].get<double>();
          CHECK(std::abs(static_cast<double>(result.logits(i, c)) - wanted) < 1e-4);
        }
      }
      CHECK(result.loss == doctest::Approx(golden.numbers["loss"].get<double>()).epsilon(1e-5));
      model.backward(ctx, batch);
      const io::SafetensorsFile expected((golden.directory.path / "gradients.safetensors").string());
      for (const auto& p : model.parameters().all()) {
        CAPTURE(p.name);
        const std::vector<float> wanted = expected.read<float>(p.name);
        std::vector<float> difference = gradient_of(ctx, model, p.name);
        REQUIRE(difference.size() == wanted.size());
        for (std::size_t i = 0; i < wanted.size(); ++i)
          difference[i] -= wanted[i];
        // The keys' bias shifts all scores of a query alike: its gradient is zero but for rounding.
        const double least = p.name.ends_with("key.bias") ? 1e-3 : 0.0;
        CHECK(norm_of(difference) <= 1e-3 * std::max(norm_of(wanted), least));
      }
    }
  }
}

TEST_CASE("device engine: the losses of 20 AdamW steps equal those of torch") {
  DeviceContext ctx;
  for (const char* variant : golden_variants) {
    for (const bool padded : {false, true}) {
      CAPTURE(variant);
      CAPTURE(padded);
      const DeviceGolden golden(variant);
      DeviceModel model(ctx, golden.directory.config);
      load_weights(golden.directory, model, 1);
      const json& run = golden.numbers["adamw"];
      std::vector<DeviceAdamW::Segment> segments = dense_parameters(model, run["weight_decay"].get<double>());
      for (index_t i = 0; i < static_cast<index_t>(model.mlp().size()); ++i) {
        auto& layer = model.mlp()[static_cast<std::size_t>(i)];
        const MatrixView<float> core = layer.core(ctx);
        segments.push_back({model.mlp_name(i), layer.weight().data, core.data, core.size(),
                            run["weight_decay"].get<double>()});
        layer.clear(ctx);
      }
      DeviceAdamW adam(ctx, std::move(segments));
      for (std::size_t step = 0; step < run["losses"].size(); ++step) {
        CAPTURE(step);
        const Batch batch = golden.batch(step, padded);
        const double loss = model.forward(ctx, batch, {.training = true}).loss;
        CHECK(loss == doctest::Approx(run["losses"][step].get<double>()).epsilon(1e-4));
        model.backward(ctx, batch);
        for (auto& layer : model.mlp())
          layer.core(ctx);
        adam.step(ctx, {.learning_rate = run["learning_rate"].get<double>()});
        model.parameters().zero_gradients(ctx);
        for (auto& layer : model.mlp())
          layer.clear(ctx);
      }
    }
  }
}

TEST_CASE("device engine: the losses of 20 sparse steps equal those of torch") {
  DeviceContext ctx;
  for (const char* variant : golden_variants) {
    CAPTURE(variant);
    const DeviceGolden golden(variant);
    const json& run = golden.numbers["sparse"];
    const json& dense = golden.numbers["adamw"];
    DeviceModel model(ctx, golden.directory.config);
    load_weights(golden.directory, model, 1);
    SparseGradGroup<float, DeviceBackend> group({.entries = run["count"].get<index_t>()});
    index_t number = 0;
    for (auto& layer : model.mlp())
      group.add(ctx, layer, number++ % 2 == 0 ? "up" : "down");
    const io::SafetensorsFile bases((golden.directory.path / "bases.safetensors").string());
    using sparsegrad::test::to_device;
    for (index_t i = 0; i < group.size(); ++i) {
      const index_t out = group.source(i).out_extent();
      const index_t in = group.source(i).in_extent();
      const auto v = to_device<DeviceBackend>(ctx, bases.read<float>(group.kind(i) + ".v"));
      const auto u = to_device<DeviceBackend>(ctx, bases.read<float>(group.kind(i) + ".u"));
      group.set_basis(
          ctx, i, TuckerBasis<float, DeviceBackend>::from_factors(ctx, v.matrix(out, out), u.matrix(in, in)));
    }
    DeviceAdamW adam(ctx, dense_parameters(model, dense["weight_decay"].get<double>()));
    for (std::size_t step = 0; step < run["losses"].size(); ++step) {
      CAPTURE(step);
      const Batch batch = golden.batch(step, false);
      const double loss = model.forward(ctx, batch, {.training = true}).loss;
      CHECK(loss == doctest::Approx(run["losses"][step].get<double>()).epsilon(1e-4));
      model.backward(ctx, batch);
      group.step(ctx, {.learning_rate = run["learning_rate"].get<double>()});
      adam.step(ctx, {.learning_rate = dense["learning_rate"].get<double>(), .clear_gradients = true});
    }
  }
}

}  // namespace sparsegrad::finetune::test
