// Properties of the native decoder: gradients by finite differences, what is left out, determinism, the cache.
#include <algorithm>
#include <cmath>
#include <map>

#include <doctest/doctest.h>

#include "decoder_support.hpp"

namespace {

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Blas = HostBackend;
template <class T>
using Model = DecoderModel<T, Blas>;

enum class Variant { plain, tied_with_biases, one_key_head, lora };

DecoderConfig config_of(Variant variant) {
  DecoderConfig c = micro_decoder();
  if (variant == Variant::tied_with_biases) {
    c.tied_embeddings = c.qkv_bias = c.o_bias = true;
    c.rope.scaling = RopeScaling::llama3;
    c.rope.factor = 8;
    c.rope.original_max_positions = 20;
  }
  if (variant == Variant::one_key_head) {
    c.kv_heads = 1;
    c.rope.scaling = RopeScaling::linear;
    c.rope.factor = 2;
  }
  return c;
}

TrainedParts everything() {
  return {.mlp = {}, .dense = {}, .matrices = all_matrices(3)};
}

std::vector<double> copy_of(MatrixView<double> m) {
  return {m.data, m.data + m.size()};
}

}  // namespace

TEST_CASE("decoder: gradients equal finite differences, for every kind of parameter") {
  Blas::Context ctx(2);
  for (const Variant variant :
       {Variant::plain, Variant::tied_with_biases, Variant::one_key_head, Variant::lora}) {
    CAPTURE(static_cast<int>(variant));
    TrainedParts trained = everything();
    if (variant == Variant::lora) trained.mlp = {.matrices = false, .lora_rank = 3, .lora_scale = 0.7};
    Model<double> model(ctx, config_of(variant), trained);
    fill(model, 3);
    const Batch batch = random_batch({5, 1, 60, 2}, 23);
    const ForwardOptions options{.training = true};
    for (int pass = 0; pass < 2; ++pass) {  // gradients add up
      model.forward(ctx, batch, options);
      model.backward(ctx, batch, 0.5);
    }
    for (auto& p : model.parameters().all()) {
      CAPTURE(p.name);
      if (variant == Variant::lora && p.kind == ParameterKind::mlp_matrix) continue;
      const MatrixView<double> gradient = gradient_of<double>(ctx, model, p.name);
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

TEST_CASE_TEMPLATE("decoder: computing activations again gives the same bits", T, float, double,
                   sparsegrad::bfloat16) {
  Blas::Context ctx(2);
  const Batch batch = random_batch({5, 1, 60, 2}, 23);
  const ParameterRule none = [](std::string_view) { return false; };
  const std::vector<TrainedParts> choices{
      everything(),
      {.mlp = {.matrices = false, .lora_rank = 3, .lora_scale = 0.7},
       .dense = none,
       .matrices = all_matrices(3)},
      {.mlp = {}, .dense = none, .matrices = {{1}, {MatrixKind::down}}},
      {.mlp = {.meprop_share = 0.5}, .dense = none, .matrices = {{0, 2}, {MatrixKind::q, MatrixKind::up}}}};
  for (const Variant variant : {Variant::plain, Variant::tied_with_biases}) {
    for (const TrainedParts& trained : choices) {
      Model<T> keeps(ctx, config_of(variant), trained);
      Model<T> again(ctx, config_of(variant), trained);
      again.recompute(true);
      for (Model<T>* model : {&keeps, &again}) {
        fill(*model, 3);
        for (int pass = 0; pass < 2; ++pass) {
          // An evaluation between two passes.
          (void)model->forward(ctx, random_batch({7, 9}, 23, 2));
          model->forward(ctx, batch, {.training = true});
          model->backward(ctx, batch, 0.5);
        }
      }
      CHECK(again.memory().activations < keeps.memory().activations);
      for (auto& p : keeps.parameters().all()) {
        CAPTURE(p.name);
        const auto wanted = gradient_of<T>(ctx, keeps, p.name);
        const auto found = gradient_of<T>(ctx, again, p.name);
        REQUIRE(found.size() == wanted.size());
        for (index_t i = 0; i < wanted.size(); ++i)
          CHECK(found.data[i] == wanted.data[i]);
      }
    }
  }
}

TEST_CASE("decoder: whatever is chosen has the gradient that it has when all is trained") {
  Blas::Context ctx(2);
  const Batch batch = random_batch({5, 50, 3}, 23);
  DecoderConfig config = micro_decoder();
  config.qkv_bias = config.o_bias = true;
  Model<double> whole(ctx, config, everything());
  fill(whole, 4);
  const double loss = whole.forward(ctx, batch, {.training = true}).loss;
  whole.backward(ctx, batch);

  const ParameterRule none = [](std::string_view) { return false; };
  std::vector<TrainedParts> choices;
  for (const MatrixKind kind : all_matrix_kinds)
    choices.push_back({.mlp = {}, .dense = none, .matrices = {{1}, {kind}}});
  choices.push_back({.mlp = {}, .dense = none, .matrices = {{2, 0}, {MatrixKind::up, MatrixKind::down}}});
  choices.push_back({.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
  for (const char* part : {"model.norm.weight", "lm_head.weight", "model.embed_tokens.weight",
                           "layers.2.input_layernorm.weight", "layers.2.post_attention_layernorm.weight",
                           "layers.1.self_attn.q_proj.bias", "layers.1.self_attn.o_proj.bias"}) {
    choices.push_back({.mlp = {.matrices = false},
                       .dense = [part](std::string_view name) { return name.ends_with(part); },
                       .matrices = {}});
  }
  choices.push_back({.mlp = {.meprop_share = 1}, .dense = none, .matrices = all_matrices(3)});
  for (const TrainedParts& choice : choices) {
    Model<double> part(ctx, config, choice);
    fill(part, 4);
    std::vector<index_t> called;
    part.on_mlp_gradient([&](index_t number) { called.push_back(number); });
    std::map<std::string, std::vector<double>> complete;  // as they are when their block says so
    part.on_layer_gradients([&](index_t block) {
      for (const auto& p : part.parameters().all()) {
        if (p.gradient.empty() || !p.name.starts_with(block_parameter(block, ""))) continue;
        complete[p.name].assign(p.gradient.data, p.gradient.data + p.gradient.size());
      }
    });
    CHECK(part.forward(ctx, batch, {.training = true}).loss == doctest::Approx(loss).epsilon(1e-12));
    part.backward(ctx, batch);
    index_t with_gradient = 0;
    for (const auto& p : part.parameters().all()) {
      CAPTURE(p.name);
      const MatrixView<double> found = gradient_of<double>(ctx, part, p.name);
      const MatrixView<double> wanted = gradient_of<double>(ctx, whole, p.name);
      for (index_t i = 0; i < found.size(); ++i)
        CHECK(std::abs(found.data[i] - wanted.data[i]) <= 1e-12);
      with_gradient += found.empty() ? 0 : 1;
      const bool dense = !p.gradient.empty();
      CHECK(complete.contains(p.name) == (dense && p.name.find(".layers.") != std::string::npos));
      if (complete.contains(p.name)) {
        CHECK(
            (complete[p.name] == std::vector<double>(p.gradient.data, p.gradient.data + p.gradient.size())));
      }
    }
    CHECK(with_gradient > 0);
    std::sort(called.begin(), called.end());
    REQUIRE(called.size() == part.mlp().size());
    for (std::size_t i = 0; i < called.size(); ++i)
      CHECK(called[i] == static_cast<index_t>(i));
  }
  Model<double> two(ctx, config,
                    {.mlp = {}, .dense = none, .matrices = {{2, 0}, {MatrixKind::down, MatrixKind::q}}});
  REQUIRE(two.mlp().size() == 4);
  CHECK(two.mlp_name(0) == "model.layers.0.self_attn.q_proj.weight");
  CHECK(two.mlp_name(3) == "model.layers.2.mlp.down_proj.weight");
}

TEST_CASE("decoder: cores in a basis are those of the gradients, whatever their layers keep") {
  Blas::Context ctx(2);
  const Batch batch = random_batch({5, 50, 3}, 23);
  const TrainedParts matrices{
      .mlp = {}, .dense = [](std::string_view) { return false; }, .matrices = all_matrices(3)};
  Model<double> whole(ctx, micro_decoder(), matrices);
  Model<double> model(ctx, micro_decoder(), matrices);
  fill(whole, 4);
  fill(model, 4);
  whole.forward(ctx, batch, {.training = true});
  whole.backward(ctx, batch);
  model.forward(ctx, batch, {.training = true});  // lays memory out for layers that keep their inputs
  for (std::size_t i = 0; i < model.mlp().size(); ++i) {
    auto& layer = model.mlp()[i];
    const SideOrder in = i % 3 == 0 ? SideOrder::multiply_first : SideOrder::project_first;
    layer.set_basis(ctx,
                    TuckerBasis<double, Blas>::from_recipes(ctx, layer.out_extent(), layer.in_extent(),
                                                            SideRecipe::random(4), SideRecipe::random(5)),
                    Plan{.out = SideOrder::multiply_first, .in = in});
    CHECK(layer.kept_cols() == (i % 3 == 0 ? 0 : 5));
  }
  model.forward(ctx, batch, {.training = true});
  model.backward(ctx, batch);
  for (std::size_t i = 0; i < model.mlp().size(); ++i) {
    CAPTURE(model.mlp_name(static_cast<index_t>(i)));
    auto& layer = model.mlp()[i];
    const std::vector<double> found = copy_of(layer.core(ctx));
    layer.clear();
    layer.add_gradient(ctx, whole.mlp()[i].core(ctx));
    const std::vector<double> wanted = copy_of(layer.core(ctx));
    CHECK(*std::max_element(wanted.begin(), wanted.end()) > 1e-6);
    for (std::size_t e = 0; e < wanted.size(); ++e)
      CHECK(std::abs(found[e] - wanted[e]) < 1e-12);
  }
}

TEST_CASE("decoder: meProp leaves the residual stream's gradient alone") {
  Blas::Context ctx(1);
  const Batch batch = random_batch({9}, 23);
  const MatrixChoice choice{{0, 2}, {MatrixKind::o, MatrixKind::down}};
  const auto lowest_gradient = [&](double share) {
    Model<double> model(ctx, micro_decoder(),
                        {.mlp = {.meprop_share = share},
                         .dense = [](std::string_view name) { return name.ends_with("embed_tokens.weight"); },
                         .matrices = choice});
    fill(model, 4);
    for (auto& p : model.parameters().all()) {
      if (p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight"))
        std::fill_n(p.weight.data, p.weight.size(), 0.0);
    }
    model.forward(ctx, batch, {.training = true});
    model.backward(ctx, batch);
    return copy_of(model.parameters().at("model.embed_tokens.weight").gradient);
  };
  // Matrices of zeros let nothing through: all that arrives came along the residual path, of whatever dY was kept.
  const std::vector<double> whole = lowest_gradient(0);
  CHECK(*std::max_element(whole.begin(), whole.end()) > 0);
  CHECK(lowest_gradient(0.1) == whole);
}

TEST_CASE("decoder: nothing is kept under the lowest trained matrix, nothing at all in evaluation") {
  Blas::Context ctx(2);
  const auto activations = [&](const TrainedParts& trained, bool training) {
    Model<float> model(ctx, micro_decoder(), trained);
    model.reserve(ctx, 512, 8, 80, training);
    return model.memory().activations;
  };
  const ParameterRule none = [](std::string_view) { return false; };
  const auto of_block = [&](index_t block, MatrixKind kind) {
    return TrainedParts{.mlp = {}, .dense = none, .matrices = {{block}, {kind}}};
  };
  const index_t evaluation = activations({.mlp = {.matrices = false}, .dense = none, .matrices = {}}, false);
  const index_t highest = activations(of_block(2, MatrixKind::down), true);
  const index_t middle = activations(of_block(1, MatrixKind::down), true);
  const index_t lowest = activations(of_block(0, MatrixKind::down), true);
  const index_t all = activations(everything(), true);
  CHECK(evaluation < highest);
  CHECK(highest < middle);
  CHECK(middle < lowest);
  CHECK(lowest < all);

  Model<float> model(ctx, micro_decoder(), everything());
  fill(model, 4);
  const Batch batch = random_batch({5, 50, 3}, 23);
  model.reserve(ctx, 64, 8, 80, false);
  const double loss = model.forward(ctx, batch).loss;
  model.reserve(ctx, 64, 8, 80, true);
  CHECK(model.forward(ctx, batch).loss == loss);
}

TEST_CASE("decoder: the loss is the mean over the counted targets") {
  Blas::Context ctx(2);
  Model<double> model(ctx, micro_decoder(), everything());
  fill(model, 4);
  const Batch batch = random_batch({5, 50, 3}, 23);
  const auto result = model.forward(ctx, batch);
  double sum = 0;
  index_t counted = 0;
  const std::vector<double> logits = model.logits(ctx, batch);
  for (std::size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] < 0) continue;
    double total = 0;
    for (std::size_t w = 0; w < 23; ++w)
      total += std::exp(logits[i * 23 + w]);
    sum += std::log(total) - logits[i * 23 + static_cast<std::size_t>(batch.targets[i])];
    ++counted;
  }
  CHECK(result.counted == counted);
  CHECK(result.loss == doctest::Approx(sum / static_cast<double>(counted)).epsilon(1e-12));
  const auto again = model.forward(ctx, batch);
  CHECK(again.token_losses.size() == static_cast<std::size_t>(counted));

  Batch silent;
  silent.add_sequence(std::vector<std::int32_t>{1, 2, 3});
  const auto nothing = model.forward(ctx, silent, {.training = true});
  CHECK(nothing.counted == 0);
  CHECK(nothing.loss == 0);
  model.backward(ctx, silent);
  for (const auto& p : model.parameters().all())
    for (const double g : copy_of(gradient_of<double>(ctx, model, p.name)))
      CHECK(g == 0);
}

TEST_CASE("decoder: logits in several chunks of rows") {
  // So many words that a chunk has 16 rows.
  Blas::Context ctx(2);
  DecoderConfig config = micro_decoder();
  config.layers = 1;
  config.vocab_size = 600000;
  config.hidden = 4;
  config.tied_embeddings = true;
  Model<float> model(ctx, config, {.mlp = {}, .dense = {}, .matrices = {}});
  fill(model, 9);
  Batch batch = random_batch({40}, config.vocab_size);
  batch.targets.assign(batch.ids.begin() + 1, batch.ids.end());
  batch.targets.push_back(3);
  const auto whole = model.forward(ctx, batch, {.training = true});
  CHECK(whole.counted == 40);
  const std::vector<double> losses(whole.token_losses.begin(), whole.token_losses.end());
  model.backward(ctx, batch);
  const MatrixView<float> d_table = model.parameters().at("model.embed_tokens.weight").gradient;
  const std::vector<float> gradient(d_table.data, d_table.data + d_table.size());
  clear_gradients(ctx, model);
  for (const std::size_t row : {0U, 15U, 16U, 39U}) {
    Batch one = batch;
    std::fill(one.targets.begin(), one.targets.end(), -1);
    one.targets[row] = batch.targets[row];
    CHECK(model.forward(ctx, one).loss == doctest::Approx(losses[row]).epsilon(1e-5));
  }
  double sum = 0;
  for (std::size_t row = 0; row < 40; ++row) {
    Batch one = batch;
    std::fill(one.targets.begin(), one.targets.end(), -1);
    one.targets[row] = batch.targets[row];
    sum += model.forward(ctx, one, {.training = true}).loss / 40;
    model.backward(ctx, one, 1.0 / 40);
  }
  CHECK(whole.loss == doctest::Approx(sum).epsilon(1e-6));
  for (std::size_t i = 0; i < gradient.size(); i += 997)
    CHECK(std::abs(d_table.data[i] - gradient[i]) < 1e-6F);
}

TEST_CASE_TEMPLATE("decoder, deterministic mode: the same bits for 1, 2 and 3 threads", T, float,
                   sparsegrad::bfloat16) {
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    Blas::Context ctx(threads, true);
    DecoderConfig config = micro_decoder();
    config.hidden = 96;
    config.intermediate = 160;
    config.heads = 6;
    config.head_size = 16;
    Model<T> model(ctx, config, everything());
    model.initialize(11);
    const Batch batch = random_batch({5, 60, 3, 17, 33, 48, 49}, 23);
    AdamW<T, Blas> adam(ctx, trained_segments<T>(ctx, model, 0.01));
    for (int step = 0; step < 3; ++step) {
      model.forward(ctx, batch, {.training = true});
      model.backward(ctx, batch);
      for (auto& layer : model.mlp())
        layer.core(ctx);
      adam.step(ctx, {.learning_rate = 1e-3});
      clear_gradients(ctx, model);
    }
    const MatrixView<float> weights = model.parameters().weights();
    results.emplace_back(weights.data, weights.data + weights.size());
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE_TEMPLATE("decoder: tokens after a cache have the logits that they have in the whole sequence", T,
                   double, float, sparsegrad::bfloat16) {
  Blas::Context ctx(2);
  DecoderConfig config = micro_decoder();
  config.qkv_bias = true;
  config.head_size = 32;
  Model<T> model(ctx, config, {.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
  fill(model, 4);
  const Batch batch = random_batch({70}, 23);
  const auto wanted = model.logits(ctx, batch);
  const double slack = is_low_precision<T> ? 0.2 : std::is_same_v<T, float> ? 2e-4 : 1e-10;
  const auto check_row = [&](index_t row, auto logits) {
    for (std::size_t w = 0; w < 23; ++w) {
      const double expected = static_cast<double>(wanted[static_cast<std::size_t>(row) * 23 + w]);
      CHECK(std::abs(static_cast<double>(logits[w]) - expected) < slack);
    }
  };
  // A prompt, single tokens, and several at a time.
  typename Model<T>::Cache cache(ctx, config, 80);
  const std::span<const std::int32_t> ids(batch.ids);
  index_t at = 0;
  for (const index_t count : {20, 1, 1, 2, 30, 1}) {
    const auto logits =
        model.decode(ctx, cache, ids.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count)));
    at += count;
    CHECK(cache.length() == at);
    check_row(at - 1, logits);
  }
  // Back to a shared beginning.
  cache.shorten(20);
  check_row(20, model.decode(ctx, cache, ids.subspan(20, 1)));
  // Two sequences side by side, one of which has begun.
  typename Model<T>::Cache other(ctx, config, 70);
  typename Model<T>::Cache* const both[] = {&cache, &other};
  Batch next;
  next.add_sequence(ids.subspan(21, 3));
  next.add_sequence(ids.first(60));
  const auto logits = model.decode(ctx, both, next);
  check_row(23, logits.row(0));
  check_row(59, logits.row(1));
}

TEST_CASE("decoder: bfloat16's losses are float's within its rounding") {
  Blas::Context ctx(2);
  DecoderConfig config = micro_decoder();
  config.hidden = 64;
  config.intermediate = 96;
  config.head_size = 16;
  config.vocab_size = 97;
  const auto losses = [&]<class T>(T) {
    Model<T> model(ctx, config, everything());
    model.initialize(5);
    const Batch batch = random_batch({20, 60, 31}, config.vocab_size);
    AdamW<T, Blas> adam(ctx, trained_segments<T>(ctx, model, 0.01));
    std::vector<double> found;
    for (int step = 0; step < 15; ++step) {
      found.push_back(model.forward(ctx, batch, {.training = true}).loss);
      model.backward(ctx, batch);
      for (auto& layer : model.mlp())
        layer.core(ctx);
      adam.step(ctx, {.learning_rate = 3e-3});
      clear_gradients(ctx, model);
    }
    return found;
  };
  const std::vector<double> wide = losses(float());
  const std::vector<double> narrow = losses(sparsegrad::bfloat16(0.0F));
  CHECK(wide.back() < 0.8 * wide.front());
  for (std::size_t i = 0; i < wide.size(); ++i)
    CHECK(narrow[i] == doctest::Approx(wide[i]).epsilon(0.01));
}

TEST_CASE("decoder: wrong batches, choices and orders are refused") {
  Blas::Context ctx(1);
  const DecoderConfig config = micro_decoder();
  Model<float> model(ctx, config);
  fill(model, 4);
  const auto forward = [&](const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& targets) {
    return error_text([&] {
      Batch batch;
      batch.add_sequence(ids, targets);
      model.forward(ctx, batch);
    });
  };
  CHECK(has(forward({1, 23}, {1, -1}), "id 23 of token 1 is not below 23"));
  CHECK(has(forward({-1}, {}), "id -1"));
  CHECK(has(forward({1}, {23}), "target 23"));
  CHECK(has(forward({1}, {-2}), "target -2"));
  CHECK(has(forward({1, 2}, {1}), "1 targets for 2 tokens"));
  CHECK(has(forward({}, {}), "no tokens"));
  CHECK(has(forward(std::vector<std::int32_t>(81, 1), {}), "position 80"));
  Batch padded;
  padded.add(std::vector<std::int32_t>{1, 2}, {}, 0, 4);
  padded.targets.assign(4, -1);
  CHECK(has(error_text([&] { model.forward(ctx, padded); }), "padded"));
  Batch no_targets;
  no_targets.add(std::vector<std::int32_t>{1, 2}, {}, 0);
  CHECK(has(error_text([&] { model.forward(ctx, no_targets); }), "0 targets for 2 tokens"));
  const Batch batch = random_batch({5}, 23);
  model.forward(ctx, batch);
  CHECK(has(error_text([&] { model.backward(ctx, batch); }), "not a training pass"));
  const auto choice = [&](const TrainedParts& trained) {
    return error_text([&] { Model<float>(ctx, config, trained); });
  };
  CHECK(has(choice({.mlp = {}, .dense = {}, .matrices = {{3}}}),
            "block 3 was chosen, the model has blocks 0 to 2"));
  CHECK(has(choice({.mlp = {.lora_rank = 2}, .dense = {}, .matrices = {}}), "adapter"));
  Model<float>::Cache cache(ctx, config, 4);
  CHECK(has(error_text([&] { model.decode(ctx, cache, std::vector<std::int32_t>(5, 1)); }), "do not fit"));
  CHECK(has(error_text([&] { model.decode(ctx, cache, {}); }), "no tokens"));
  CHECK(has(error_text([&] { Model<float>::Cache(ctx, config, 81); }), "80 positions"));
}

TEST_CASE("decoder: a tied model has no matrix of the head; adapters are merged into what is saved") {
  Blas::Context ctx(1);
  DecoderConfig config = micro_decoder();
  CHECK(Model<float>(ctx, config).parameters().find("lm_head.weight") != nullptr);
  config.tied_embeddings = true;
  CHECK(Model<float>(ctx, config).parameters().find("lm_head.weight") == nullptr);
  Model<double> model(ctx, config,
                      {.mlp = {.matrices = false, .lora_rank = 2, .lora_scale = 0.5},
                       .dense = {},
                       .matrices = {{1}, {MatrixKind::k, MatrixKind::gate}}});
  fill(model, 8);
  Model<double> plain(ctx, config, {.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
  index_t merged = 0;
  for (const auto& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter) continue;
    const auto own = model.merged(p);
    merged += own ? 1 : 0;
    plain.set_values(plain.parameters().at(p.name).weight, own ? *own : model.values(p.weight));
  }
  CHECK(merged == 2);
  const Batch batch = random_batch({5, 9}, 23);
  CHECK(plain.forward(ctx, batch).loss == doctest::Approx(model.forward(ctx, batch).loss).epsilon(1e-12));
}
