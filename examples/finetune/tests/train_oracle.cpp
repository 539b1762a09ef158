// A training run against a second, plain implementation of the same loop: one example at a time, sums in double, and
// AdamW, decay, clipping and the schedule written from their definitions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "files.hpp"
#include "support/tiny_bert.hpp"
#include "tokenizers/tokenizer.hpp"
#include "training/sampler.hpp"
#include "training/trainer.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

constexpr index_t examples = 184;  // steps of 3 micro-batches of 16: the epoch's last has 16, 16 and 8
constexpr index_t warmup = 3;

const ModelDirectory& start() {
  static const ModelDirectory directory = open_model_directory(make_tiny_bert(fresh_folder("tiny_bert")));
  return directory;
}

TrainOptions options_of_the_run() {
  TrainOptions options;
  options.run_type = RunType::ft;
  options.batch_size = 16;
  options.accumulation = 3;
  options.max_steps = 9;  // four in the first epoch
  options.epochs = 10;
  options.learning_rate = 1e-3;
  options.schedule = Schedule::linear;
  options.warmup = warmup;
  options.weight_decay = 0.3;
  options.clip_norm = 1e-6;  // so far down that AdamW's eps sees the scale of the gradients
  options.dropout = 0;
  options.log_every = 2;
  return options;
}

using Values = std::map<std::string, std::vector<double>>;

Values weights_of(Model& model) {
  Values all;
  for (const Parameter<float>& p : model.parameters().all())
    all[p.name].assign(p.weight.data, p.weight.data + p.weight.size());
  return all;
}

/// The mean gradient and the mean loss of these examples, each of which passes alone.
double gradients_of(GlueContext& ctx, Model& model, const EncodedDataset& data,
                    std::span<const index_t> chosen, Values& gradients) {
  const auto total = static_cast<double>(chosen.size());
  double loss = 0;
  gradients.clear();
  const auto add = [&](const std::string& name, const float* g, index_t n) {
    std::vector<double>& sum = gradients[name];
    sum.resize(static_cast<std::size_t>(n), 0);
    for (index_t i = 0; i < n; ++i)
      sum[static_cast<std::size_t>(i)] += static_cast<double>(g[i]) / total;
  };
  Batch batch;
  for (const index_t i : chosen) {
    batch.clear();
    data.add_to(batch, i, Padding::unpadded);
    model.parameters().zero_gradients(ctx);
    loss += model.forward(ctx, batch, {.training = true, .dropout_key = 1}).loss / total;
    model.backward(ctx, batch, 1);
    for (const Parameter<float>& p : model.parameters().all())
      if (!p.gradient.empty()) add(p.name, p.gradient.data, p.gradient.size());
    index_t number = 0;
    for (auto& layer : model.mlp()) {
      const MatrixView<const float> g = layer.core(ctx);
      add(model.mlp_name(number++), g.data, g.size());
      layer.clear(ctx);
    }
  }
  return loss;
}

/// As transformers' get_linear_schedule_with_warmup.
double planned_rate(index_t step, index_t steps, double rate) {
  if (step < warmup) return rate * static_cast<double>(step) / static_cast<double>(warmup);
  return rate * static_cast<double>(steps - step) / static_cast<double>(steps - warmup);
}

}  // namespace

TEST_CASE("a run's weights, losses and rates are those of the plain loop") {
  const TrainOptions options = options_of_the_run();
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(start().path);
  const EncodedDataset train(builtin_acceptability(Split::train), *tokenizer, 32, examples);
  const EncodedDataset dev(builtin_acceptability(Split::dev), *tokenizer, 32, 40);
  REQUIRE(train.size() == examples);
  GlueContext ctx(1, true);

  Model trained(ctx, start().config, trained_parts(options));
  load_weights(start(), trained, options.seed);
  trained.set_dropout(0);
  const Values before = weights_of(trained);
  Trainer trainer(ctx, trained, find_task("acceptability"), train, dev, options);
  trainer.run();
  const Values found = weights_of(trained);

  Model plain(ctx, start().config, trained_parts(options));
  load_weights(start(), plain, options.seed);
  plain.set_dropout(0);
  Sampler order = sampler_of(options, examples);
  Values gradients, first, second;
  std::vector<double> losses, rates, norms;
  for (index_t step = 0; step < options.max_steps; ++step) {
    losses.push_back(gradients_of(ctx, plain, train, order.take(48), gradients));
    double squares = 0;
    for (const auto& [name, values] : gradients)
      for (const double g : values)
        squares += g * g;
    norms.push_back(std::sqrt(squares));
    const double clip = std::min(1.0, options.clip_norm / (norms.back() + 1e-6));
    rates.push_back(planned_rate(step, options.max_steps, options.learning_rate));
    const double t = static_cast<double>(step + 1);
    for (Parameter<float>& p : plain.parameters().all()) {
      const bool decays = !p.name.ends_with(".bias") && p.name.find("LayerNorm") == std::string::npos;
      const std::vector<double>& g = gradients.at(p.name);
      std::vector<double>& m = first[p.name];
      std::vector<double>& v = second[p.name];
      m.resize(g.size(), 0);
      v.resize(g.size(), 0);
      for (std::size_t i = 0; i < g.size(); ++i) {
        const double scaled = clip * g[i];
        double w = static_cast<double>(p.weight.data[i]);
        if (decays) w -= rates.back() * options.weight_decay * w;
        m[i] = 0.9 * m[i] + 0.1 * scaled;
        v[i] = 0.999 * v[i] + 0.001 * scaled * scaled;
        const double mean = m[i] / (1 - std::pow(0.9, t));
        const double size = std::sqrt(v[i] / (1 - std::pow(0.999, t)));
        p.weight.data[i] = static_cast<float>(w - rates.back() * mean / (size + 1e-8));
      }
    }
  }
  // What the comparison is to see must be there: steps that are clipped, and an epoch that ends raggedly.
  CHECK(*std::min_element(norms.begin(), norms.end()) > options.clip_norm);
  CHECK(order.position().epoch == 2);

  const auto& records = trainer.report().steps;  // of steps 2, 4, 6, 8 and the last
  REQUIRE(records.size() == 5);
  std::size_t next = 0;  // the first step since the record before
  for (const StepRecord& record : records) {
    CAPTURE(record.step);
    const auto step = static_cast<std::size_t>(record.step - 1);
    CHECK(record.loss == doctest::Approx(losses[step]).epsilon(1e-4));
    double sum = 0;
    for (std::size_t i = next; i <= step; ++i)
      sum += losses[i];
    CHECK(record.mean_loss == doctest::Approx(sum / static_cast<double>(step + 1 - next)).epsilon(1e-4));
    next = step + 1;
    CHECK(record.learning_rate == doctest::Approx(rates[step]).epsilon(1e-12));
    CHECK(record.examples == (record.step % 4 == 0 ? 40 : 48));
  }
  for (const auto& [name, wanted] : weights_of(plain)) {
    // Its gradient is zero but for rounding, which Adam makes as large as a gradient.
    if (name.ends_with("attention.self.key.bias")) continue;
    CAPTURE(name);
    double change = 0, difference = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      change += std::pow(wanted[i] - before.at(name)[i], 2);
      difference += std::pow(wanted[i] - found.at(name)[i], 2);
    }
    CHECK(change > 0);
    CHECK(std::sqrt(difference) <= 0.005 * std::sqrt(change));
  }
}
