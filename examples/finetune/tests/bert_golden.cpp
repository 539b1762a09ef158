// The native encoder against torch and transformers (golden/make_bert_goldens.py).
#include <cmath>
#include <cstdlib>

#include <doctest/doctest.h>

#include <sparsegrad/io/safetensors.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "bert_support.hpp"
#include "training/mlp/sparse_setup.hpp"

namespace {

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Blas = HostBackend;
using Model = EncoderModel<float, Blas>;
using nlohmann::json;

struct Golden {
  ModelDirectory directory;
  json golden;
};

Golden read_golden(const char* variant) {
  const auto folder = golden_folder() / variant;
  Golden g{open_model_directory(folder), read_json(folder / "golden.json")};
  return g;
}

void check_logits(MatrixView<const float> logits, const json& expected) {
  REQUIRE(logits.rows == static_cast<index_t>(expected.size()));
  for (index_t i = 0; i < logits.rows; ++i) {
    for (index_t c = 0; c < logits.cols; ++c) {
      const double wanted = expected[static_cast<std::size_t>(i)][static_cast<std::size_t>(c)].get<double>();
      CHECK(std::abs(static_cast<double>(logits(i, c)) - wanted) < 1e-4);
    }
  }
}

double norm_of_values(const float* x, index_t n) {
  double sum = 0;
  for (index_t i = 0; i < n; ++i)
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::sqrt(sum);
}

constexpr const char* variants[] = {"classification", "regression", "roberta"};

}  // namespace

TEST_CASE("logits, loss and every gradient equal those of transformers") {
  Blas::Context ctx(2);
  for (const char* variant : variants) {
    for (const bool padded : {false, true}) {
      CAPTURE(variant);
      CAPTURE(padded);
      const Golden g = read_golden(variant);
      Model model(ctx, g.directory.config);
      const LoadReport report = load_weights(g.directory, model, 1);
      CHECK(report.text() == "");
      const Batch batch = batch_of(g.golden["batches"][0], padded ? g.golden["pad_to"].get<index_t>() : 0);
      const auto result = model.forward(ctx, batch, {.training = true});
      check_logits(result.logits, g.golden["logits"]);
      CHECK(result.loss == doctest::Approx(g.golden["loss"].get<double>()).epsilon(1e-5));
      model.backward(ctx, batch);

      const io::SafetensorsFile expected((g.directory.path / "gradients.safetensors").string());
      REQUIRE(expected.names().size() == model.parameters().all().size());
      for (const auto& p : model.parameters().all()) {
        CAPTURE(p.name);
        const std::vector<float> wanted = expected.read<float>(p.name);
        const MatrixView<float> found = gradient_of(ctx, model, p.name);
        REQUIRE(found.size() == static_cast<index_t>(wanted.size()));
        std::vector<float> difference(wanted);
        for (std::size_t i = 0; i < wanted.size(); ++i)
          difference[i] = found.data[i] - wanted[i];
        const double scale = norm_of_values(wanted.data(), found.size());
        // The keys' bias shifts all scores of a query alike: its gradient is zero but for rounding.
        const double least = p.name.ends_with("key.bias") ? 1e-3 : 0.0;
        CHECK(norm_of_values(difference.data(), found.size()) <= 1e-3 * std::max(scale, least));
      }
    }
  }
}

TEST_CASE("the losses of 20 AdamW steps equal those of torch") {
  Blas::Context ctx(2);
  for (const char* variant : variants) {
    for (const bool padded : {false, true}) {
      CAPTURE(variant);
      CAPTURE(padded);
      const Golden g = read_golden(variant);
      Model model(ctx, g.directory.config);
      load_weights(g.directory, model, 1);
      const json& run = g.golden["adamw"];
      AdamW<float, Blas> adam(ctx,
                              dense_segments<float, Blas>(ctx, model, run["weight_decay"].get<double>()));
      for (std::size_t step = 0; step < run["losses"].size(); ++step) {
        CAPTURE(step);
        const Batch batch =
            batch_of(g.golden["batches"][step], padded ? g.golden["pad_to"].get<index_t>() : 0);
        const double loss = model.forward(ctx, batch, {.training = true}).loss;
        CHECK(loss == doctest::Approx(run["losses"][step].get<double>()).epsilon(1e-4));
        model.backward(ctx, batch);
        for (auto& layer : model.mlp())
          layer.core(ctx);
        adam.step(ctx, {.learning_rate = run["learning_rate"].get<double>()});
        clear_gradients(ctx, model);
      }
    }
  }
}

TEST_CASE("the losses of 20 sparse steps equal those of torch") {
  Blas::Context ctx(2);
  for (const char* variant : variants) {
    for (const bool own_bases : {false, true}) {
      CAPTURE(variant);
      CAPTURE(own_bases);
      const Golden g = read_golden(variant);
      const json& run = g.golden["sparse"];
      Model model(ctx, g.directory.config);
      load_weights(g.directory, model, 1);
      // torch's SparseAdam keeps every moment.
      SparseGradGroup<float, Blas> group(
          {.entries = run["count"].get<index_t>(), .optimizer = {.overflow = Overflow::go_dense}});
      index_t number = 0;
      for (auto& layer : model.mlp())
        group.add(ctx, layer, mlp_kind(number++));

      if (own_bases) {
        group.collect(ctx, {});
        for (std::size_t i = 0; i < run["basis_steps"].get<std::size_t>(); ++i) {
          const Batch batch = batch_of(g.golden["batches"][i]);
          model.forward(ctx, batch, {.training = true});
          model.backward(ctx, batch);
          group.end_collecting_step(ctx);
        }
        group.refresh(ctx);
        clear_gradients(ctx, model);
      } else {
        const io::SafetensorsFile bases((g.directory.path / "bases.safetensors").string());
        for (index_t i = 0; i < group.size(); ++i) {
          const index_t out = group.source(i).out_extent();
          const index_t in = group.source(i).in_extent();
          const std::vector<float> v = bases.read<float>(group.kind(i) + ".v");
          const std::vector<float> u = bases.read<float>(group.kind(i) + ".u");
          group.set_basis(
              ctx, i, TuckerBasis<float, Blas>::from_factors(ctx, {v.data(), out, out}, {u.data(), in, in}));
        }
      }

      std::vector<AdamW<float, Blas>::Segment> segments;
      for (auto& p : model.parameters().all()) {
        if (!p.gradient.empty())
          segments.push_back({p.name, p.weight.data, p.gradient.data, p.weight.size(),
                              g.golden["adamw"]["weight_decay"].get<double>()});
      }
      AdamW<float, Blas> adam(ctx, std::move(segments));
      for (std::size_t step = 0; step < run["losses"].size(); ++step) {
        CAPTURE(step);
        const Batch batch = batch_of(g.golden["batches"][step]);
        const double loss = model.forward(ctx, batch, {.training = true}).loss;
        CHECK(loss == doctest::Approx(run["losses"][step].get<double>()).epsilon(1e-4));
        model.backward(ctx, batch);
        group.step(ctx, {.learning_rate = run["learning_rate"].get<double>()});
        adam.step(ctx, {.learning_rate = g.golden["adamw"]["learning_rate"].get<double>()});
        clear_gradients(ctx, model);
      }
    }
  }
}

TEST_CASE("the real model equals transformers") {
  const char* path = std::getenv("SPARSEGRAD_BERT_DIR");
  if (path == nullptr) {
    MESSAGE("skipped: SPARSEGRAD_BERT_DIR does not name the 6-layer model's directory");
    return;
  }
  Blas::Context ctx(2);
  const json golden = read_json(golden_folder() / "real.json");
  ModelDirectory directory = open_model_directory(path);
  directory.config.set_dropout(0);
  directory.config.num_labels = 2;
  Model model(ctx, directory.config);
  const LoadReport report = load_weights(directory, model, 1);
  CHECK(report.initialized == std::vector<std::string>{"classifier.weight", "classifier.bias"});
  auto& weight = model.parameters().at("classifier.weight").weight;
  auto& bias = model.parameters().at("classifier.bias").weight;
  for (index_t i = 0; i < weight.rows; ++i) {
    const auto row = static_cast<std::size_t>(i);
    bias.data[i] = golden["classifier_bias"][row].get<float>();
    for (index_t j = 0; j < weight.cols; ++j)
      weight(i, j) = golden["classifier_weight"][row][static_cast<std::size_t>(j)].get<float>();
  }
  const Batch batch = batch_of(golden["batch"]);
  const auto result = model.forward(ctx, batch, {.training = true});
  check_logits(result.logits, golden["logits"]);
  CHECK(result.loss == doctest::Approx(golden["loss"].get<double>()).epsilon(1e-5));
  model.backward(ctx, batch);
  for (const auto& entry : golden["gradients"].items()) {
    const std::string& name = entry.key();
    const json& wanted = entry.value();
    CAPTURE(name);
    const MatrixView<float> found = gradient_of(ctx, model, name);
    const double norm = wanted["norm"].get<double>();
    const double least = name.ends_with("key.bias") ? 1e-4 : 0.0;
    CHECK(std::abs(norm_of_values(found.data, found.size()) - norm) <= 1e-3 * std::max(norm, least));
    for (std::size_t i = 0; i < wanted["at"].size(); ++i) {
      const double value = wanted["values"][i].get<double>();
      const double error = std::abs(static_cast<double>(found.data[wanted["at"][i].get<index_t>()]) - value);
      CHECK(error <= 1e-3 * std::max(norm, least));
    }
  }
}
