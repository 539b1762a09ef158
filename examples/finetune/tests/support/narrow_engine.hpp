// Encoder, optimizer and trainer in 16 bits on any backend, against the float ones on the CPU: a file that includes this
// names the backend first, as `DeviceBackend`, with a Context that is made without arguments, and its RunDevice, and the
// types, as SPARSEGRAD_TEST_NARROW_TYPES, and instantiates engine and trainer for it in them.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <sparsegrad/io/safetensors.hpp>

#include "bert_support.hpp"
#include "support/device_memory.hpp"
#include "support/device_run.hpp"

namespace sparsegrad::finetune::test {

using Cpu = HostBackend;
using nlohmann::json;

template <class T>
inline constexpr NumberType number_type =
    std::is_same_v<T, bfloat16> ? NumberType::bfloat16 : NumberType::float16;

/// Half of the largest relative distance of neighbours: what one rounding changes at most.
template <class T>
inline constexpr double rounding = low_precision_epsilon<T> / 2;

inline double norm_of(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x)
    sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

inline double distance(std::vector<float> a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    a[i] -= b[i];
  return norm_of(a);
}

template <class T, class Backend>
std::vector<float> host_gradient(typename Backend::Context& ctx, EncoderModel<T, Backend>& model,
                                 const std::string& name) {
  return model.values(gradient_of(ctx, model, name));
}

/// One training pass in T and in float: logits and every gradient must differ by no more than `roundings` roundings of
/// the largest logit, or of the gradient's norm.
template <class T>
void check_pass(const ModelConfig& config, const TrainedParts& trained, const Batch& batch, double roundings,
                const std::function<void(EncoderModel<float, Cpu>&)>& fill) {
  Cpu::Context cpu(1);
  DeviceBackend::Context ctx;
  EncoderModel<float, Cpu> exact(cpu, config, trained);
  EncoderModel<T, DeviceBackend> model(ctx, config, trained);
  fill(exact);
  model.set_values(model.parameters().weights(), exact.values(exact.parameters().weights()));
  const double scale = LossScale::of<T>().scale / 64;
  const auto wanted = exact.forward(cpu, batch, {.training = true, .dropout_key = 3});
  const auto found = model.forward(ctx, batch, {.training = true, .dropout_key = 3});
  double most = 0;
  double worst = 0;
  for (index_t i = 0; i < wanted.logits.rows; ++i) {
    for (index_t c = 0; c < wanted.logits.cols; ++c) {
      most = std::max(most, std::abs(static_cast<double>(wanted.logits(i, c))));
      worst = std::max(worst, std::abs(static_cast<double>(found.logits(i, c) - wanted.logits(i, c))));
    }
  }
  CHECK(worst <= roundings * rounding<T> * std::max(most, 1.0));
  exact.backward(cpu, batch);
  model.backward(ctx, batch, scale);
  for (const auto& p : exact.parameters().all()) {
    if (p.gradient.empty() && (p.kind != ParameterKind::mlp_matrix || !exact.trains_mlp())) continue;
    CAPTURE(p.name);
    const std::vector<float> expected = host_gradient(cpu, exact, p.name);
    std::vector<float> gradient = host_gradient(ctx, model, p.name);
    for (float& g : gradient)
      g /= static_cast<float>(scale);
    // The keys' bias shifts all scores of a query alike: its gradient is nothing but rounding.
    const double least = p.name.ends_with("key.bias") ? 1 : 0;
    CHECK(distance(gradient, expected) <= roundings * rounding<T> * std::max(norm_of(expected), least));
  }
}

#define SPARSEGRAD_TEST_NARROW(text) TEST_CASE_TEMPLATE(text, T, SPARSEGRAD_TEST_NARROW_TYPES)

SPARSEGRAD_TEST_NARROW("narrow engine: logits and gradients of the goldens are float's to some roundings") {
  for (const char* variant : {"classification", "regression", "roberta"}) {
    for (const bool padded : {false, true}) {
      CAPTURE(variant);
      CAPTURE(padded);
      const ModelDirectory directory = open_model_directory(golden_folder() / variant);
      const json numbers = read_json(golden_folder() / variant / "golden.json");
      const Batch batch = batch_of(numbers["batches"][0], padded ? numbers["pad_to"].get<index_t>() : 0);
      check_pass<T>(directory.config, {}, batch, 8,
                    [&](auto& model) { CHECK(load_weights(directory, model, 1).text() == ""); });
    }
  }
}

inline ModelConfig narrow_config(index_t head_size) {
  ModelConfig config;
  config.vocab_size = 50;
  config.max_positions = 700;
  config.layers = 2;
  config.heads = 2;
  config.hidden = 2 * head_size;
  config.intermediate = 40;
  config.num_labels = 3;
  config.set_dropout(0.2);
  return config;
}

/// Sequences of many lengths; padded rows where `padded` > 0.
inline Batch narrow_batch(std::initializer_list<index_t> lengths, index_t padded) {
  Batch batch;
  std::int32_t number = 0;
  for (const index_t length : lengths) {
    std::vector<std::int32_t> ids, types;
    for (index_t i = 0; i < length; ++i) {
      ids.push_back(number++ * 7 % 50);
      types.push_back(i > length / 2 ? 1 : 0);
    }
    batch.add(ids, types, static_cast<float>(length % 3), padded);
  }
  return batch;
}

SPARSEGRAD_TEST_NARROW("narrow engine: heads of any size, long sequences, padding, dropout, LoRA") {
  const auto fill = [](auto& model) {
    model.initialize(5);
    for (auto& p : model.parameters().all()) {
      if (p.is_bias_or_norm()) continue;
      for (index_t i = 0; i < p.weight.size(); ++i)
        p.weight.data[i] *= 5;  // livelier scores than the usual start's
    }
  };
  TrainedParts lora;
  lora.mlp.matrices = false;
  lora.mlp.lora_rank = 3;
  for (const index_t head_size : {8, 10, 72}) {
    CAPTURE(head_size);
    check_pass<T>(narrow_config(head_size), {}, narrow_batch({1, 17, 65, 33}, 0), 16, fill);
    if (head_size != 8)
      check_pass<T>(narrow_config(head_size), lora, narrow_batch({1, 17, 32}, 40), 16, fill);
  }
  check_pass<T>(narrow_config(8), {}, narrow_batch({520}, 0), 16, fill);
}

SPARSEGRAD_TEST_NARROW("narrow engine: the losses of 20 AdamW steps are near torch's") {
  DeviceBackend::Context ctx;
  for (const char* variant : {"classification", "regression"}) {
    CAPTURE(variant);
    const ModelDirectory directory = open_model_directory(golden_folder() / variant);
    const json numbers = read_json(golden_folder() / variant / "golden.json");
    const json& run = numbers["adamw"];
    EncoderModel<T, DeviceBackend> model(ctx, directory.config);
    load_weights(directory, model, 1);
    auto segments = dense_segments<T, DeviceBackend>(ctx, model, run["weight_decay"].get<double>());
    AdamW<T, DeviceBackend> adam(ctx, std::move(segments));
    const double scale = LossScale::of<T>().scale / 64;
    double most = 0;
    for (const json& loss : run["losses"])
      most = std::max(most, loss.get<double>());
    for (std::size_t step = 0; step < run["losses"].size(); ++step) {
      CAPTURE(step);
      const Batch batch = batch_of(numbers["batches"][step]);
      const double loss = model.forward(ctx, batch, {.training = true}).loss;
      CHECK(std::abs(loss - run["losses"][step].get<double>()) <= 16 * rounding<T> * most);
      model.backward(ctx, batch, scale);
      for (auto& layer : model.mlp())
        layer.core(ctx);
      adam.step(ctx, {.learning_rate = run["learning_rate"].get<double>(), .grad_scale = 1 / scale});
      clear_gradients<T, DeviceBackend>(ctx, model);
    }
  }
}

SPARSEGRAD_TEST_NARROW("narrow AdamW: updates below half a unit of the last place add up in the weight") {
  DeviceBackend::Context ctx;
  using sparsegrad::test::to_device;
  using sparsegrad::test::to_host;
  const index_t n = 1000;
  const std::vector<float> ones(n, 1.0F);
  auto weight = to_device<DeviceBackend>(ctx, ones);
  auto gradient = to_device<DeviceBackend>(ctx, ones);
  auto rounded = to_device<DeviceBackend>(ctx, std::vector<T>(n, T(1.0F)));
  AdamW<T, DeviceBackend> adam(ctx, {{"w", weight.data(), gradient.data(), n, 0, rounded.data()}});
  const double rate = rounding<T> / 16;  // below 1 a unit is half of what it is above
  for (int step = 1; step <= 16; ++step) {
    adam.step(ctx, {.learning_rate = rate});
    const std::vector<float> w = to_host<DeviceBackend, float>(ctx, weight.data(), n);
    const std::vector<T> r = to_host<DeviceBackend, T>(ctx, rounded.data(), n);
    for (index_t i = 0; i < n; ++i) {
      const auto e = static_cast<std::size_t>(i);
      REQUIRE(w[e] == doctest::Approx(1 - step * rate).epsilon(1e-6));
      REQUIRE(r[e].bits == T(w[e]).bits);
    }
    CHECK((static_cast<float>(r[0]) == 1.0F) == (step < 8 || w[0] >= 1 - rounding<T> / 2));
  }
}

inline TrainOptions narrow_options(RunType type, NumberType dtype) {
  TrainOptions options = device_options(type);
  options.device = ThrustBackend<DeviceBackend> ? Device::cuda : Device::cpu;
  options.dtype = dtype;
  options.max_steps = 6;
  return options;
}

SPARSEGRAD_TEST_NARROW("narrow trainer: run types have losses near those of the CPU in float") {
  for (const RunType type : {RunType::ft, RunType::sparse, RunType::topk, RunType::lora}) {
    CAPTURE(std::string(to_string(type)));
    TrainOptions options = narrow_options(type, number_type<T>);
    options.clip_norm = type == RunType::lora ? 0.5 : 0;
    options.sparse.state_capacity = type == RunType::topk ? 0 : 4;  // all matrices together
    TrainOptions exact = options;
    exact.dtype = NumberType::float32;
    DeviceRun<float, Cpu> on_cpu(exact);
    DeviceRun<T, DeviceBackend> on_device(options);
    check_same_losses(on_cpu, on_device, 16 * rounding<T>);
    CHECK(on_device.trainer->report().skipped_steps == 0);
  }
  // Which entries of a row are largest depends on rounding: no more than that it runs.
  TrainOptions meprop = narrow_options(RunType::meprop, number_type<T>);
  meprop.max_steps = 2;
  DeviceRun<T, DeviceBackend> run(meprop);
  run.trainer->run();
  CHECK(run.trainer->report().evaluations.size() == 1);
}

template <class Model>
void multiply_classifier(Model& model, float factor) {
  const auto& p = model.parameters().at("classifier.weight");
  std::vector<float> values = model.values(p.weight);
  for (float& v : values)
    v *= factor;
  model.set_values(p.weight, values);
}

SPARSEGRAD_TEST_NARROW(
    "narrow trainer: a saved state goes on with the same bits, the loss scale too; models are saved") {
  for (const RunType type : {RunType::ft, RunType::sparse}) {
    CAPTURE(std::string(to_string(type)));
    const TrainOptions options = narrow_options(type, number_type<T>);
    const std::filesystem::path state = fresh_folder("narrow_state") / "state.safetensors";
    DeviceRun<T, DeviceBackend> whole(options);
    REQUIRE(whole.trainer->collect_bases());
    multiply_classifier(whole.model, LossScale::needed<T> ? 200.0F : 1.0F);  // some steps are left out
    for (int step = 0; step < 3; ++step)
      whole.trainer->step();
    CHECK((whole.trainer->loss_scale().scale < LossScale::of<T>().scale) == LossScale::needed<T>);
    whole.trainer->save_state(state);
    DeviceRun<T, DeviceBackend> resumed(options);
    CHECK(resumed.trainer->restore_state(state) == "");
    CHECK(resumed.trainer->loss_scale().scale == whole.trainer->loss_scale().scale);
    for (int step = 0; step < 3; ++step) {
      CHECK(resumed.trainer->state_hash() == whole.trainer->state_hash());
      whole.trainer->step();
      resumed.trainer->step();
    }
    CHECK(resumed.trainer->state_hash() == whole.trainer->state_hash());

    // In float nothing is lost; in T what the passes had rounded anyway, and biases and tables.
    const std::vector<float> weights = whole.model.values(whole.model.parameters().weights());
    for (const bool narrow : {false, true}) {
      const std::filesystem::path folder = fresh_folder("narrow_model");
      save_model(folder, device_test_model(), whole.model,
                 file_type(narrow ? number_type<T> : NumberType::float32));
      Cpu::Context cpu(1);
      EncoderModel<float, Cpu> loaded(cpu, device_test_model().config);
      CHECK(load_weights(open_model_directory(folder), loaded, 1).text() == "");
      const std::vector<float> found = loaded.values(loaded.parameters().weights());
      REQUIRE(found.size() == weights.size());
      for (std::size_t i = 0; i < found.size(); ++i)
        REQUIRE(found[i] == (narrow ? static_cast<float>(T(weights[i])) : weights[i]));
    }
  }
}

}  // namespace sparsegrad::finetune::test
