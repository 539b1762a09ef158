// Properties of the native encoder: gradients by finite differences, padding, dropout, determinism, files.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <doctest/doctest.h>

#include <sparsegrad/io/safetensors.hpp>

#include "bert_support.hpp"
#include "models/layers/host/mask.hpp"
#include "models/layers/host/vector_math.hpp"

namespace {

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Blas = HostBackend;
using nlohmann::json;

ModelConfig micro_config() {
  ModelConfig c;
  c.vocab_size = 13;
  c.max_positions = 9;
  c.type_vocab_size = 2;
  c.layers = 2;
  c.hidden = 12;
  c.heads = 2;
  c.intermediate = 20;
  c.num_labels = 3;
  c.set_dropout(0);
  return c;
}

/// Like `initialize`, but with numbers large enough for every gradient to matter.
template <class T>
void fill(EncoderModel<T, Blas>& model, std::uint64_t seed) {
  for (auto& p : model.parameters().all()) {
    const std::uint64_t key = stream_key(seed, std::hash<std::string>()(p.name));
    for (index_t i = 0; i < p.weight.size(); ++i) {
      const double x = normal_at(key, static_cast<std::uint64_t>(i));
      p.weight.data[i] = static_cast<T>(p.name.ends_with("LayerNorm.weight") ? 1 + 0.2 * x : 0.3 * x);
    }
  }
}

Batch micro_batch(index_t pad_to = 0, int labels = 3) {
  Batch batch;
  const std::vector<std::vector<std::int32_t>> ids = {{1, 5, 7, 2}, {3}, {4, 4, 9, 12, 11, 6, 8}};
  const std::vector<std::vector<std::int32_t>> types = {{0, 0, 1, 1}, {1}, {0, 1, 1, 1, 1, 1, 1}};
  for (std::size_t s = 0; s < ids.size(); ++s) {
    batch.add(ids[s], types[s], labels == 1 ? 0.7F * static_cast<float>(s) : static_cast<float>((s + 1) % 3),
              pad_to);
  }
  return batch;
}

std::uint64_t hash_of(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  std::uint64_t hash = 1469598103934665603ULL;
  for (std::size_t i = 0; i < bytes; ++i)
    hash = (hash ^ p[i]) * 1099511628211ULL;
  return hash;
}

std::string error_text(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("exp and gelu") {
  double exp_error = 0;
  double gelu_error = 0;
  double slope_error = 0;
  for (int i = -60000; i <= 60000; ++i) {
    const float x = static_cast<float>(i) * 1.7e-4F;
    const auto exact = static_cast<double>(x);
    exp_error = std::max(exp_error, std::abs(static_cast<double>(exp_of(8 * x)) / std::exp(8 * exact) - 1));
    const auto pair = gelu_of(x);
    const auto wanted = gelu_of(exact);
    const double scale = 1 + std::abs(exact);
    gelu_error = std::max(gelu_error, std::abs(static_cast<double>(pair.value) - wanted.value) / scale);
    slope_error =
        std::max(slope_error, std::abs(static_cast<double>(pair.derivative) - wanted.derivative) / scale);
    Pack<float> pack = Pack<float>{} + x;
    const auto pair_of_packs = gelu_of(pack);
    CHECK(std::abs(pair_of_packs.value[0] - pair.value) <= 2e-7F * (1 + std::abs(x)));
  }
  CHECK(exp_error < 2e-7);
  CHECK(gelu_error < 2e-7);
  CHECK(slope_error < 2e-7);
  CHECK(exp_of(-1000.0F) < 1e-37F);
  CHECK(std::isfinite(exp_of(1000.0F)));
}

TEST_CASE("exp and gelu of results that are rounded to 16 bits, and the logarithm") {
  double exp_error = 0;
  double gelu_error = 0;
  double slope_error = 0;
  double share_error = 0;
  for (int i = -60000; i <= 60000; ++i) {
    const float x = static_cast<float>(i) * 2e-4F;
    const auto exact = static_cast<double>(x);
    const double scale = 1 + std::abs(exact);
    const auto power = static_cast<double>(exp_for<sparsegrad::bfloat16>(7 * x));
    exp_error =
        std::max(exp_error, std::abs(power / std::exp(static_cast<double>(7 * x)) - 1) / (1 + 7 * scale));
    const auto pair = gelu_for<sparsegrad::bfloat16>(x);
    const auto wanted = gelu_of(exact);
    gelu_error = std::max(gelu_error, std::abs(static_cast<double>(pair.value) - wanted.value) / scale);
    slope_error =
        std::max(slope_error, std::abs(static_cast<double>(pair.derivative) - wanted.derivative) / scale);
    if (i != 0)
      share_error = std::max(share_error, std::abs(static_cast<double>(pair.value) / wanted.value - 1));
  }
  CHECK(exp_error < 1e-7);
  CHECK(gelu_error < 1e-6);
  CHECK(slope_error < 1e-6);
  CHECK(share_error < 2e-3);
  CHECK(exp_for<sparsegrad::bfloat16>(-1e30F) < 1e-37F);
  CHECK(std::isfinite(exp_for<sparsegrad::bfloat16>(1e30F)));
  CHECK(exp_for<float>(1.5F) == exp_of(1.5F));
  CHECK(gelu_for<float>(1.5F).value == gelu_of(1.5F).value);

  double log_error = 0;
  for (float x = 1e-6F; x < 1e6F; x *= 1.001F) {
    const double wanted = std::log(static_cast<double>(x));
    const Pack<float> found = log_of(Pack<float>{} + x);
    log_error =
        std::max(log_error, std::abs(static_cast<double>(found[0]) - wanted) / (1 + std::abs(wanted)));
  }
  CHECK(log_error < 1e-7);
  CHECK(log_of(Pack<float>{} + 1.0F)[0] == 0);
}

TEST_CASE("gradients equal finite differences, for every kind of parameter, with dropout on") {
  Blas::Context ctx(2);
  enum class Variant { classification, regression, roberta, lora };
  for (const Variant variant :
       {Variant::classification, Variant::regression, Variant::roberta, Variant::lora}) {
    for (const double dropout : {0.0, 0.2}) {
      ModelConfig config = micro_config();
      const bool regression = variant == Variant::regression;
      if (regression) {
        config.problem = ProblemType::regression;
        config.num_labels = 1;
      }
      if (variant == Variant::roberta) {
        config.family = ModelFamily::roberta;
        config.pad_token_id = 1;
      }
      config.set_dropout(dropout);
      TrainedParts trained;
      if (variant == Variant::lora) {
        trained.mlp.matrices = false;
        trained.mlp.lora_rank = 3;
        trained.mlp.lora_scale = 0.7;
      }
      EncoderModel<double, Blas> model(ctx, config, trained);
      fill(model, 3);
      const Batch batch = micro_batch(0, regression ? 1 : 3);
      const ForwardOptions options{.training = true, .dropout_key = 17};
      model.forward(ctx, batch, options);
      model.backward(ctx, batch, 0.5);
      model.forward(ctx, batch, options);
      model.backward(ctx, batch, 0.5);  // gradients add up
      for (auto& p : model.parameters().all()) {
        CAPTURE(p.name);
        CAPTURE(dropout);
        if (variant == Variant::lora && p.kind == ParameterKind::mlp_matrix) continue;
        const MatrixView<double> gradient = gradient_of(ctx, model, p.name);
        REQUIRE(gradient.size() == p.weight.size());
        const index_t step = std::max<index_t>(1, p.weight.size() / 7);
        for (index_t i = 0; i < p.weight.size(); i += step) {
          double& w = p.weight.data[i];
          const double before = w;
          constexpr double h = 1e-5;
          w = before + h;
          const double above = model.forward(ctx, batch, options).loss;
          w = before - h;
          const double below = model.forward(ctx, batch, options).loss;
          w = before;
          const double wanted = (above - below) / (2 * h);
          CHECK(std::abs(gradient.data[i] - wanted) < 1e-7 + 1e-6 * std::abs(wanted));
        }
      }
    }
  }
}

TEST_CASE("meProp: of a row of dY the largest entries are left") {
  Blas::Context ctx(1);
  Batch batch;
  batch.add(std::vector<std::int32_t>{3}, {}, 1);
  // One token: a row of dW is that entry of dY times x.
  const auto gradient_of_last = [&](double share) {
    TrainedParts trained;
    trained.mlp.meprop_share = share;
    EncoderModel<double, Blas> model(ctx, micro_config(), trained);
    fill(model, 4);
    model.forward(ctx, batch, {.training = true});
    model.backward(ctx, batch);
    const MatrixView<double> g = model.mlp_down(1).core(ctx);
    return std::vector<double>(g.data, g.data + g.size());
  };
  const std::vector<double> whole = gradient_of_last(0);
  CHECK(gradient_of_last(1) == whole);
  const std::vector<double> kept = gradient_of_last(0.25);
  const std::size_t cols = 20;
  std::vector<double> size(12);
  for (std::size_t i = 0; i < size.size(); ++i)
    size[i] = std::abs(whole[i * cols]);
  std::vector<double> sorted = size;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (std::size_t i = 0; i < size.size(); ++i) {
    for (std::size_t j = 0; j < cols; ++j)
      CHECK(kept[i * cols + j] == (size[i] >= sorted[2] ? whole[i * cols + j] : 0.0));
  }
}

TEST_CASE("padding changes nothing") {
  Blas::Context ctx(2);
  EncoderModel<float, Blas> model(ctx, micro_config());
  fill(model, 5);
  std::vector<float> logits[2];
  std::vector<std::vector<float>> gradients[2];
  for (const int padded : {0, 1}) {
    const Batch batch = micro_batch(padded == 1 ? 9 : 0);
    const auto result = model.forward(ctx, batch, {.training = true});
    logits[padded].assign(result.logits.data, result.logits.data + result.logits.size());
    model.backward(ctx, batch);
    for (const auto& p : model.parameters().all()) {
      const auto g = gradient_of(ctx, model, p.name);
      gradients[padded].emplace_back(g.data, g.data + g.size());
    }
    clear_gradients(ctx, model);
  }
  for (std::size_t i = 0; i < logits[0].size(); ++i)
    CHECK(logits[0][i] == doctest::Approx(logits[1][i]).epsilon(1e-5));
  for (std::size_t p = 0; p < gradients[0].size(); ++p) {
    CAPTURE(model.parameters().all()[p].name);
    for (std::size_t i = 0; i < gradients[0][p].size(); ++i)
      CHECK(std::abs(gradients[0][p][i] - gradients[1][p][i]) < 1e-5F);
  }
}

TEST_CASE("dropout: a mask a key, none in evaluation, the right share") {
  Blas::Context ctx(2);
  ModelConfig config = micro_config();
  config.set_dropout(0.3);
  EncoderModel<float, Blas> model(ctx, config);
  fill(model, 5);
  const Batch batch = micro_batch();
  const double first = model.forward(ctx, batch, {.training = true, .dropout_key = 1}).loss;
  CHECK(model.forward(ctx, batch, {.training = true, .dropout_key = 1}).loss == first);
  CHECK(model.forward(ctx, batch, {.training = true, .dropout_key = 2}).loss != first);
  const double evaluated = model.forward(ctx, batch).loss;
  CHECK(evaluated == model.forward(ctx, batch, {.dropout_key = 2}).loss);
  model.set_dropout(0);
  CHECK(model.forward(ctx, batch, {.training = true, .dropout_key = 1}).loss == evaluated);

  const Dropout<float> dropout(0.3, 99);
  index_t dropped = 0;
  for (index_t row = 0; row < 200; ++row) {
    const auto mask = mask_row(dropout, row);
    for_packs<float>(500, [&](auto at) {
      float multipliers[64];
      at.store(multipliers - at.j, mask(at));
      constexpr std::size_t count = sizeof(typename decltype(at)::value) / sizeof(float);
      for (std::size_t l = 0; l < count; ++l) {
        dropped += multipliers[l] == 0.0F;
        CHECK(multipliers[l] == mask(ElementAt<float>{at.j + static_cast<index_t>(l)}));
      }
    });
  }
  CHECK(std::abs(static_cast<double>(dropped) / 1e5 - 0.3) < 0.01);
}

TEST_CASE_TEMPLATE("deterministic mode: the same bits for 1, 2 and 3 threads", T, float,
                   sparsegrad::bfloat16) {
  std::vector<std::uint64_t> hashes;
  for (const int threads : {1, 2, 3}) {
    Blas::Context ctx(threads, true);
    ModelConfig config = micro_config();
    config.hidden = 96;
    config.heads = 3;
    config.intermediate = 384;
    config.max_positions = 64;
    config.set_dropout(0.1);
    EncoderModel<T, Blas> model(ctx, config);
    model.initialize(11);
    Batch batch;
    for (int s = 0; s < 12; ++s) {
      std::vector<std::int32_t> ids;
      for (int i = 0; i < 5 + 4 * s; ++i)
        ids.push_back((i * 7 + s) % 13);
      batch.add(ids, {}, static_cast<float>(s % 3));
    }
    AdamW<T, Blas> adam(ctx, dense_segments<T, Blas>(ctx, model, 0.01));
    for (std::uint64_t step = 0; step < 5; ++step) {
      model.forward(ctx, batch, {.training = true, .dropout_key = step});
      model.backward(ctx, batch);
      for (auto& layer : model.mlp())
        layer.core(ctx);
      const double norm = adam.gradient_norm(ctx);
      adam.step(ctx, {.learning_rate = 1e-3, .grad_scale = clip_factor(norm, 0.5)});
      clear_gradients(ctx, model);
    }
    const auto weights = model.parameters().weights();
    hashes.push_back(hash_of(weights.data, static_cast<std::size_t>(weights.size()) * sizeof(float)));
  }
  CHECK(hashes[0] == hashes[1]);
  CHECK(hashes[0] == hashes[2]);
}

TEST_CASE("parts of the model may be left untrained") {
  Blas::Context ctx(2);
  const Batch batch = micro_batch();
  EncoderModel<double, Blas> whole(ctx, micro_config());
  EncoderModel<double, Blas> part(ctx, micro_config(),
                                  {.mlp = {.matrices = false}, .dense = [](std::string_view name) {
                                     return name.find("attention") != name.npos;
                                   }});
  fill(whole, 4);
  fill(part, 4);
  CHECK(part.memory().mlp_gradients == 0);
  CHECK(part.memory().dense_gradients < whole.memory().dense_gradients);
  CHECK(whole.forward(ctx, batch, {.training = true}).loss ==
        part.forward(ctx, batch, {.training = true}).loss);
  whole.backward(ctx, batch);
  part.backward(ctx, batch);
  for (const auto& p : part.parameters().all()) {
    CAPTURE(p.name);
    CHECK(p.gradient.empty() == (p.name.find("attention") == std::string::npos));
    const auto& wanted = whole.parameters().at(p.name).gradient;
    for (index_t i = 0; i < p.gradient.size(); ++i)
      CHECK(p.gradient.data[i] == doctest::Approx(wanted.data[i]).epsilon(1e-9));
  }
}

TEST_CASE("a model with room for evaluation alone gives the same logits in less memory") {
  Blas::Context ctx(2);
  const Batch batch = micro_batch();
  EncoderModel<float, Blas> model(ctx, micro_config(), {.mlp = {.matrices = false}, .dense = {}});
  fill(model, 4);
  model.reserve(ctx, 64, 8, 9, false);
  const index_t lean = model.memory().activations;
  const double loss = model.forward(ctx, batch).loss;
  model.reserve(ctx, 64, 8, 9, true);
  CHECK(model.forward(ctx, batch).loss == loss);
  CHECK(lean < model.memory().activations);
}

TEST_CASE("wrong batches and wrong order are refused") {
  Blas::Context ctx(1);
  EncoderModel<float, Blas> model(ctx, micro_config());
  fill(model, 4);
  const auto forward = [&](std::vector<std::int32_t> ids, std::vector<std::int32_t> types, float label) {
    return error_text([&] {
      Batch batch;
      batch.add(ids, types, label);
      model.forward(ctx, batch);
    });
  };
  CHECK(has(forward({1, 13}, {}, 0), "id 13 of token 1 is not below 13"));
  CHECK(has(forward({-1}, {}, 0), "id -1"));
  CHECK(has(forward({1}, {2}, 0), "type 2"));
  CHECK(has(forward(std::vector<std::int32_t>(10, 1), {}, 0), "position 9"));
  CHECK(has(forward({1}, {}, 3), "label 3"));
  CHECK(has(forward({1}, {}, 0.5F), "label 0.5"));
  CHECK(has(forward({}, {}, 0), "no tokens"));
  CHECK(has(forward({1, 2}, {0}, 0), "1 type ids for 2 tokens"));
  const Batch batch = micro_batch();
  model.forward(ctx, batch);
  CHECK(has(error_text([&] { model.backward(ctx, batch); }), "not a training pass"));
  CHECK(has(error_text([&] { micro_batch(5); }), "7 tokens does not fit into 5"));
}

TEST_CASE("configurations that the engine cannot run are refused by the field's name") {
  json good = read_json(golden_folder() / "classification" / "config.json");
  const auto refused = [&](const char* key, const json& value) {
    json j = good;
    j[key] = value;
    return error_text([&] { parse_model_config(j, "config.json"); });
  };
  CHECK(parse_model_config(good, "").num_labels == 3);
  CHECK(has(refused("hidden_act", "relu"), "\"hidden_act\" is \"relu\""));
  for (const char* other : {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "gelu_10"})
    CHECK(has(refused("hidden_act", other), "\"hidden_act\" is"));
  {
    json exact = good;  // transformers' other name of the same function
    exact["hidden_act"] = "gelu_python";
    CHECK(to_json(parse_model_config(exact, ""), exact).at("hidden_act") == "gelu");
  }
  CHECK(has(refused("model_type", "gpt2"), "\"model_type\" is \"gpt2\""));
  CHECK(has(refused("position_embedding_type", "relative_key"), "position_embedding_type"));
  CHECK(has(refused("hidden_size", 33), "not a multiple"));
  CHECK(has(refused("hidden_size", "32"), "expected an integer"));
  CHECK(has(refused("hidden_size", nullptr), "\"hidden_size\" is missing"));
  CHECK(has(refused("num_hidden_layers", 0), "num_hidden_layers"));
  CHECK(has(refused("hidden_dropout_prob", 1.0), "hidden_dropout_prob"));
  CHECK(has(refused("layer_norm_eps", 0), "layer_norm_eps"));
  CHECK(has(refused("layer_norm_eps", -1e-12), "\"layer_norm_eps\" is -1e-12, expected > 0"));
  CHECK(has(refused("vocab_size", 1LL << 40), "vocab_size"));
  // A number that would be another one, a sound one, in the type in which it is used.
  CHECK(has(refused("pad_token_id", 1LL << 32), "\"pad_token_id\" is 4294967296, expected"));
  good["model_type"] = "roberta";
  CHECK(has(refused("pad_token_id", 2147483647), "\"pad_token_id\" is 2147483647, expected >= 0 and below"));
  good["model_type"] = "bert";
  CHECK(has(refused("pad_token_id", -(1LL << 32) + 1), "\"pad_token_id\" is -4294967295, expected"));
  CHECK(has(refused("pad_token_id", std::uint64_t{18446744073709551615ULL}),
            "\"pad_token_id\" is 18446744073709551615, expected"));
  CHECK(has(refused("problem_type", "multi_label_classification"), "problem_type"));
  CHECK(has(error_text([] { parse_model_config(json::array(), "config.json"); }), "expected a JSON object"));
  // RoBERTa's positions begin behind the padding index.
  good["model_type"] = "roberta";
  good.erase("pad_token_id");
  const ModelConfig roberta = parse_model_config(good, "");
  CHECK(roberta.first_position() == 2);
  CHECK(roberta.longest_sequence() == roberta.max_positions - 2);
  CHECK(has(refused("pad_token_id", roberta.max_positions - 1), "\"pad_token_id\""));
  CHECK(has(refused("pad_token_id", -1), "\"pad_token_id\""));
}

TEST_CASE(
    "directories: saved and loaded alike; old names, bare names, narrow types; what is wrong is named") {
  Blas::Context ctx(1);
  const std::filesystem::path root = std::filesystem::path(SPARSEGRAD_TEST_OUTPUT_DIR) / "directories";
  std::filesystem::remove_all(root);
  std::filesystem::create_directories(root);
  const ModelDirectory source = open_model_directory(golden_folder() / "classification");
  EncoderModel<float, Blas> model(ctx, source.config);
  load_weights(source, model, 1);
  save_model(root / "saved", source, model);

  const ModelDirectory saved = open_model_directory(root / "saved");
  CHECK(saved.config.num_labels == 3);
  CHECK(saved.config_json["architectures"][0] == "BertForSequenceClassification");
  EncoderModel<float, Blas> again(ctx, saved.config);
  CHECK(load_weights(saved, again, 2).text() == "");
  const auto a = model.parameters().weights();
  const auto b = again.parameters().weights();
  CHECK(std::memcmp(a.data, b.data, static_cast<std::size_t>(a.size()) * sizeof(float)) == 0);

  // Files made by hand: every parameter's tensor may be renamed, reshaped, retyped or left out.
  const io::SafetensorsFile original((root / "saved" / "model.safetensors").string());
  struct Change {
    std::string name;
    std::vector<index_t> shape;
    std::optional<io::DType> dtype;
    bool leave_out = false;
  };
  const auto make = [&](const char* folder, const std::function<void(Change&)>& change) {
    std::filesystem::create_directories(root / folder);
    std::filesystem::copy_file(root / "saved" / "config.json", root / folder / "config.json");
    io::SafetensorsWriter writer;
    for (const std::string& name : original.names()) {
      const io::Tensor tensor = original.find(name);
      Change c{name, tensor.shape, {}, false};
      change(c);
      if (c.leave_out) continue;
      if (c.dtype == io::DType::bf16) {
        std::vector<std::byte> halves;
        for (std::size_t i = 0; i < tensor.bytes.size(); i += 4)
          halves.insert(halves.end(), tensor.bytes.begin() + static_cast<std::ptrdiff_t>(i) + 2,
                        tensor.bytes.begin() + static_cast<std::ptrdiff_t>(i) + 4);
        static std::vector<std::vector<std::byte>> kept;
        kept.push_back(std::move(halves));
        writer.add(c.name, io::DType::bf16, c.shape, kept.back());
      } else {
        writer.add(c.name, c.dtype.value_or(io::DType::f32), c.shape, tensor.bytes);
      }
    }
    writer.write((root / folder / "model.safetensors").string());
    return root / folder;
  };
  const auto load = [&](const std::filesystem::path& path, EncoderModel<float, Blas>& into) {
    return load_weights(open_model_directory(path), into, 7);
  };
  const auto load_error = [&](const std::filesystem::path& path) {
    return error_text([&] { load(path, again); });
  };

  const auto old = make("old", [](Change& c) {
    if (c.name.ends_with("LayerNorm.weight")) c.name.replace(c.name.size() - 6, 6, "gamma");
    if (c.name.ends_with("LayerNorm.bias")) c.name.replace(c.name.size() - 4, 4, "beta");
    if (c.name.starts_with("bert.")) c.name = c.name.substr(5);
  });
  again.initialize(5);
  CHECK(load(old, again).text() == "");
  CHECK(std::memcmp(a.data, b.data, static_cast<std::size_t>(a.size()) * sizeof(float)) == 0);

  const auto wrapped = make("wrapped", [](Change& c) { c.name.insert(0, "_orig_mod.module."); });
  again.initialize(5);
  CHECK(load(wrapped, again).text() == "");
  CHECK(std::memcmp(a.data, b.data, static_cast<std::size_t>(a.size()) * sizeof(float)) == 0);
  const auto twice = make("twice", [](Change& c) {
    if (c.name == "bert.pooler.dense.bias") c.name = "module.bert.embeddings.LayerNorm.bias";
  });
  CHECK(has(load_error(twice), "several tensors could be \"bert.embeddings.LayerNorm.bias\""));

  // Two shards of every other tensor.
  std::filesystem::create_directories(root / "shards");
  std::filesystem::copy_file(root / "saved" / "config.json", root / "shards" / "config.json");
  nlohmann::json index;
  io::SafetensorsWriter shards[2];
  std::size_t number = 0;
  for (const std::string& name : original.names()) {
    const io::Tensor tensor = original.find(name);
    index["weight_map"][name] = number % 2 == 0 ? "a.safetensors" : "b.safetensors";
    shards[number++ % 2].add(name, tensor.dtype, tensor.shape, tensor.bytes);
  }
  shards[0].write((root / "shards" / "a.safetensors").string());
  shards[1].write((root / "shards" / "b.safetensors").string());
  std::ofstream(root / "shards" / "model.safetensors.index.json") << index.dump();
  again.initialize(5);
  CHECK(load(root / "shards", again).text() == "");
  CHECK(std::memcmp(a.data, b.data, static_cast<std::size_t>(a.size()) * sizeof(float)) == 0);
  index["weight_map"].erase("bert.encoder.layer.1.output.dense.bias");
  std::ofstream(root / "shards" / "model.safetensors.index.json") << index.dump();
  CHECK(has(load_error(root / "shards"), "holds it, but the index does not list it"));

  const auto narrow = make("narrow", [](Change& c) { c.dtype = io::DType::bf16; });
  load(narrow, again);
  for (index_t i = 0; i < a.size(); ++i)
    CHECK(std::abs(a.data[i] - b.data[i]) <= 0.01F * std::abs(a.data[i]));

  const auto headless = make("headless", [](Change& c) {
    c.leave_out = c.name.starts_with("classifier.") || c.name.starts_with("bert.pooler.");
  });
  const LoadReport report = load(headless, again);
  CHECK(report.initialized.size() == 4);
  CHECK(has(report.text(), "newly initialised: bert.pooler.dense.weight"));
  const auto& head = again.parameters().at("classifier.weight").weight;
  double squares = 0;
  for (index_t i = 0; i < head.size(); ++i)
    squares += static_cast<double>(head.data[i]) * static_cast<double>(head.data[i]);
  CHECK(std::sqrt(squares / static_cast<double>(head.size())) == doctest::Approx(0.02).epsilon(0.3));

  const auto extra = make("extra", [](Change& c) {
    if (c.name == "classifier.bias") c.name = "cls.predictions.bias";
  });
  CHECK(load(extra, again).unused == std::vector<std::string>{"cls.predictions.bias"});

  const auto missing =
      make("missing", [](Change& c) { c.leave_out = c.name == "bert.encoder.layer.1.output.dense.weight"; });
  CHECK(has(load_error(missing), "bert.encoder.layer.1.output.dense.weight"));
  const auto transposed = make("transposed", [](Change& c) {
    if (c.name == "bert.encoder.layer.0.intermediate.dense.weight") c.shape = {32, 64};
  });
  CHECK(has(load_error(transposed), "bert.encoder.layer.0.intermediate.dense.weight"));
  CHECK(has(load_error(transposed), "[64, 32]"));
  const auto integers = make("integers", [](Change& c) {
    if (c.name == "classifier.bias") c.dtype = io::DType::i32;
  });
  CHECK(has(load_error(integers), "classifier.bias"));
  CHECK(has(load_error(integers), "I32"));

  std::filesystem::create_directories(root / "empty");
  CHECK(has(load_error(root / "empty"), "config.json"));
  std::filesystem::copy_file(root / "saved" / "config.json", root / "empty" / "config.json");
  CHECK(has(load_error(root / "empty"), "model.safetensors"));
  std::ofstream(root / "empty" / "model.safetensors") << "short";
  CHECK(has(load_error(root / "empty"), "model.safetensors"));
  std::ofstream(root / "empty" / "config.json") << "{";
  CHECK(has(load_error(root / "empty"), "config.json"));
  CHECK(has(load_error(root / "absent"), "absent"));
}
