// The native decoder against transformers and peft (golden/make_decoder_goldens.py) on any backend: a file that includes
// this names it first, as `DeviceBackend`, and instantiates the model and AdamW for it in float.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>

#include <doctest/doctest.h>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/config_file.hpp"
#include "decoder_support.hpp"

namespace sparsegrad::finetune::test {

using nlohmann::json;
using GoldenDecoder = DecoderModel<float, DeviceBackend>;

inline constexpr const char* decoder_variants[] = {"llama", "llama3", "linear", "qwen2", "mistral"};

inline json golden_of(const std::string& variant) {
  return read_json(decoder_goldens() / variant / "golden.json");
}

template <class T>
void check_logits(const std::vector<T>& found, std::size_t row, const json& wanted, double slack) {
  for (std::size_t w = 0; w < wanted.size(); ++w) {
    const double logit = static_cast<double>(found[row * wanted.size() + w]);
    CHECK(std::abs(logit - wanted[w].get<double>()) < slack);
  }
}

/// Relative to the largest number of the tensor.
inline void check_gradient(const std::string& name, const std::vector<float>& found,
                           const std::vector<float>& wanted) {
  CAPTURE(name);
  REQUIRE(found.size() == wanted.size());
  double most = 0;
  double worst = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(wanted[i])));
    worst = std::max(worst, std::abs(static_cast<double>(found[i]) - static_cast<double>(wanted[i])));
  }
  CHECK(most > 1e-4);
  CHECK(worst < 1e-4 * most);
}

inline void check_adamw(DeviceBackend::Context& ctx, GoldenDecoder& model, const json& golden,
                        const json& losses) {
  clear_gradients(ctx, model);
  AdamW<float, DeviceBackend> adam(ctx,
                                   trained_segments<float>(ctx, model, golden["weight_decay"].get<double>()));
  for (std::size_t step = 0; step < losses.size(); ++step) {
    const Batch batch = decoder_batch(golden["batches"][step]);
    const double loss = model.forward(ctx, batch, {.training = true}).loss;
    CHECK(loss == doctest::Approx(losses[step].get<double>()).epsilon(1e-4));
    model.backward(ctx, batch);
    for (auto& layer : model.mlp())
      layer.core(ctx);
    adam.step(ctx, {.learning_rate = golden["learning_rate"].get<double>()});
    clear_gradients(ctx, model);
  }
}

TEST_CASE("decoder: logits, loss, every gradient and 20 AdamW steps are transformers'") {
  DeviceBackend::Context ctx;
  for (const char* variant : decoder_variants) {
    CAPTURE(variant);
    const json golden = golden_of(variant);
    const DecoderFolder folder = open_decoder_folder(decoder_goldens() / variant);
    GoldenDecoder model(ctx, folder.config,
                        {.mlp = {}, .dense = {}, .matrices = all_matrices(folder.config.layers)});
    CHECK(load_weights(folder, model, 1).text().empty());
    const Batch batch = decoder_batch(golden["batches"][0]);
    const std::vector<float> logits = model.logits(ctx, batch);
    for (std::size_t row = 0; row < golden["logits"].size(); ++row)
      check_logits(logits, row, golden["logits"][row], 1e-4);
    check_logits(logits, static_cast<std::size_t>(batch.offsets[2] - 1), golden["last_logits"], 1e-4);

    const auto result = model.forward(ctx, batch, {.training = true});
    CHECK(result.loss == doctest::Approx(golden["loss"].get<double>()).epsilon(1e-5));
    model.backward(ctx, batch);
    const io::SafetensorsFile gradients((decoder_goldens() / variant / "gradients.safetensors").string());
    CHECK(gradients.names().size() == model.parameters().all().size());
    for (const auto& p : model.parameters().all())
      check_gradient(p.name, model.values(gradient_of<float>(ctx, model, p.name)),
                     gradients.read<float>(p.name));
    check_adamw(ctx, model, golden, golden["adamw_losses"]);
  }
}

TEST_CASE("decoder: greedy tokens are transformers'") {
  DeviceBackend::Context ctx;
  for (const char* variant : decoder_variants) {
    CAPTURE(variant);
    const json golden = golden_of(variant);
    const DecoderFolder folder = open_decoder_folder(decoder_goldens() / variant);
    GoldenDecoder model(ctx, folder.config, {.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
    load_weights(folder, model, 1);
    KeyValueCache<float, DeviceBackend> cache(ctx, folder.config, 40);
    auto ids = golden["prompt"].get<std::vector<std::int32_t>>();
    std::vector<std::int32_t> generated;
    while (generated.size() < golden["greedy"].size()) {
      const std::span<const float> logits = model.decode(ctx, cache, ids);
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      ids = {static_cast<std::int32_t>(best)};
      generated.push_back(ids[0]);
    }
    CHECK(generated == golden["greedy"].get<std::vector<std::int32_t>>());
  }
}

TEST_CASE("decoder: log likelihoods of answers to choose from are transformers'") {
  DeviceBackend::Context ctx;
  for (const char* variant : decoder_variants) {
    CAPTURE(variant);
    const json golden = golden_of(variant);
    const DecoderFolder folder = open_decoder_folder(decoder_goldens() / variant);
    GoldenDecoder model(ctx, folder.config, {.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
    load_weights(folder, model, 1);
    const auto prompt = golden["prompt"].get<std::vector<std::int32_t>>();
    const std::span<const std::int32_t> before = std::span(prompt).first(prompt.size() - 1);
    KeyValueCache<float, DeviceBackend> shared(ctx, folder.config, 40);
    model.decode(ctx, shared, before);
    std::deque<KeyValueCache<float, DeviceBackend>> caches;
    std::vector<KeyValueCache<float, DeviceBackend>*> pointers;
    Batch batch;
    for (const json& answer : golden["choices"]["answers"]) {
      const auto targets = answer.get<std::vector<std::int32_t>>();
      std::vector<std::int32_t> ids{prompt.back()};
      ids.insert(ids.end(), targets.begin(), targets.end() - 1);
      batch.add_sequence(ids, targets);
      caches.emplace_back(ctx, folder.config, 30).copy_from(ctx, shared);
      pointers.push_back(&caches.back());
    }
    const std::span<const double> losses = model.token_losses_after(ctx, pointers, batch);
    std::size_t at = 0;
    for (std::size_t i = 0; i < pointers.size(); ++i) {
      double sum = 0;
      for (index_t t = 0; t < batch.lengths[i]; ++t)
        sum -= losses[at++];
      CHECK(sum == doctest::Approx(golden["choices"]["log_likelihoods"][i].get<double>()).epsilon(1e-5));
    }
  }
}

TEST_CASE("decoder: LoRA is peft's") {
  DeviceBackend::Context ctx;
  const json golden = golden_of("llama");
  const json& lora = golden["lora"];
  const DecoderFolder folder = open_decoder_folder(decoder_goldens() / "llama");
  const auto rank = lora["rank"].get<index_t>();
  GoldenDecoder model(ctx, folder.config,
                      {.mlp = {.matrices = false,
                               .lora_rank = rank,
                               .lora_scale = lora["alpha"].get<double>() / static_cast<double>(rank)},
                       .dense = [](std::string_view) { return false; },
                       .matrices = {{1}, {MatrixKind::q, MatrixKind::v, MatrixKind::up, MatrixKind::down}}});
  load_weights(folder, model, 1);
  const io::SafetensorsFile file((decoder_goldens() / "llama" / "lora.safetensors").string());
  std::size_t adapters = 0;
  for (auto& p : model.parameters().all()) {
    if (p.kind != ParameterKind::adapter) continue;
    model.set_values(p.weight, file.read<float>(p.name));
    ++adapters;
  }
  CHECK(file.names().size() == 2 * adapters);
  const Batch batch = decoder_batch(golden["batches"][0]);
  const std::vector<float> logits = model.logits(ctx, batch);
  for (std::size_t row = 0; row < lora["logits"].size(); ++row)
    check_logits(logits, row, lora["logits"][row], 1e-4);
  const auto result = model.forward(ctx, batch, {.training = true});
  CHECK(result.loss == doctest::Approx(lora["loss"].get<double>()).epsilon(1e-5));
  model.backward(ctx, batch);
  for (const auto& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter)
      check_gradient(p.name, model.values(p.gradient), file.read<float>(p.name + ".gradient"));
  }
  check_adamw(ctx, model, golden, lora["adamw_losses"]);
}

}  // namespace sparsegrad::finetune::test
