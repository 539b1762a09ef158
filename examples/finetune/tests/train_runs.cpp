// Training runs of a tiny model on the built-in sentences.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <span>
#include <utility>

#include "files.hpp"
#include "replication/reference_defects.hpp"
#include "support/tiny_bert.hpp"
#include "tokenizers/tokenizer.hpp"
#include "training/memory/memory_estimate.hpp"
#include "training/output/run_log.hpp"
#include "training/trainer.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

const ModelDirectory& tiny_directory() {
  static const ModelDirectory directory = open_model_directory(make_tiny_bert(fresh_folder("tiny_bert")));
  return directory;
}

constexpr RunType every_type[] = {RunType::ft,   RunType::sparse, RunType::topk,
                                  RunType::lora, RunType::meprop, RunType::frozen_mlp};

TrainOptions tiny_options(RunType type) {
  TrainOptions options;
  options.run_type = type;
  options.batch_size = 16;
  options.max_steps = 20;
  options.epochs = 10;
  options.learning_rate = 1e-3;
  options.log_every = 1;
  options.sparse.phase1_steps = 4;
  options.sparse.share = 0.05;
  return options;
}

/// A second rank that gives what this one gives: sums are twice its numbers.
class Twin final : public Communicator {
 public:
  std::function<void()> started;  ///< called when a gradient has been put into a bucket

  int rank() const override { return 0; }
  int size() const override { return 2; }
  Ticket start_sum(std::span<float> x, SumOrder, const std::string&) override { return twice(x); }
  Ticket start_sum(std::span<double> x, SumOrder, const std::string&) override { return twice(x); }
  Ticket start_sum(std::span<sparsegrad::bfloat16>, SumOrder, const std::string&) override { return 0; }
  Ticket start_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                      const std::string&) override {
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i] = mine[i % mine.size()];
    return 0;
  }
  void wait(Ticket) override {}
  void poll() override {
    if (started) started();
  }
  void broadcast(std::span<std::byte>, int, const std::string&) override {}
  void barrier(const std::string&) override {}
  Traffic traffic() const override { return {}; }

 private:
  template <class N>
  static Ticket twice(std::span<N> x) {
    for (N& value : x)
      value += value;
    return 0;
  }
};

/// Model, data and trainer of one run.
struct Run {
  explicit Run(TrainOptions options, int threads = 1, index_t examples = 160,
               Communicator* processes = nullptr)
      : ctx(threads, true),
        model(ctx, tiny_directory().config, trained_parts(options)),
        tokenizer(load_tokenizer(tiny_directory().path)),
        train(builtin_acceptability(Split::train), *tokenizer, 32, examples),
        dev(builtin_acceptability(Split::dev), *tokenizer, 32, 40) {
    load_weights(tiny_directory(), model, options.seed);
    if (options.dropout) model.set_dropout(*options.dropout);
    trainer =
        std::make_unique<Trainer>(ctx, model, find_task("acceptability"), train, dev, options, 0, processes);
  }

  std::vector<double> losses() const {
    std::vector<double> all;
    for (const StepRecord& record : trainer->report().steps)
      all.push_back(record.loss);
    return all;
  }

  GlueContext ctx;
  Model model;
  std::unique_ptr<Tokenizer> tokenizer;
  EncodedDataset train;
  EncodedDataset dev;
  std::unique_ptr<Trainer> trainer;
};

double mean(const std::vector<double>& values, std::size_t first, std::size_t count) {
  double sum = 0;
  for (std::size_t i = first; i < first + count; ++i)
    sum += values[i];
  return sum / static_cast<double>(count);
}

std::vector<float> mlp_weights(Model& model) {
  std::vector<float> all;
  for (const Parameter<float>& p : model.parameters().all()) {
    if (p.kind == ParameterKind::mlp_matrix)
      all.insert(all.end(), p.weight.data, p.weight.data + p.weight.size());
  }
  return all;
}

void check_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    CHECK_MESSAGE(std::abs(a[i] - b[i]) <= tolerance * std::abs(b[i]),
                  "step " << i << ": " << a[i] << " and " << b[i]);
}

}  // namespace

TEST_CASE("phase 1 leaves no trace but the bases") {
  for (const double clip : {0.0, 0.5}) {
    TrainOptions options = tiny_options(RunType::sparse);
    options.clip_norm = clip;
    options.weight_decay = 0.01;
    Run run(options);
    const std::uint64_t before = run.trainer->state_hash();
    REQUIRE(run.trainer->collect_bases());
    CHECK(run.trainer->state_hash() == before);
    CHECK(run.trainer->report().phase1.losses.size() == 4);
    CHECK(run.model.mlp_up(0).basis()->out().kind() == SideKind::factor);
    CHECK(run.model.mlp_up(0).basis() == run.model.mlp_up(1).basis());
    CHECK(run.model.mlp_up(0).basis() != run.model.mlp_down(0).basis());
    for (const Parameter<float>& p : run.model.parameters().all()) {
      CHECK(std::all_of(p.gradient.data, p.gradient.data + p.gradient.size(),
                        [](float g) { return g == 0.0F; }));
    }
  }
}

TEST_CASE("phase 1 may read the weights again in place of keeping a copy") {
  const TrainOptions options = tiny_options(RunType::sparse);
  Run run(options);
  TrainHooks hooks;
  hooks.restore_weights = [&] { load_weights(tiny_directory(), run.model, options.seed); };
  const std::uint64_t before = run.trainer->state_hash();
  REQUIRE(run.trainer->collect_bases(hooks));
  CHECK(run.trainer->state_hash() == before);
}

TEST_CASE("phase 1 changes the weights when asked to") {
  TrainOptions options = tiny_options(RunType::sparse);
  options.sparse.keep_phase1 = true;
  Run run(options);
  const std::uint64_t before = run.trainer->state_hash();
  REQUIRE(run.trainer->collect_bases());
  CHECK(run.trainer->state_hash() != before);
}

TEST_CASE("phase 1 with fixed matrices trains all else, and has no optimizer for them") {
  for (const double clip : {0.0, 0.5}) {
    TrainOptions options = tiny_options(RunType::sparse);
    options.clip_norm = clip;
    options.sparse.keep_phase1 = true;
    Run trained(options);
    options.sparse.phase1_fixed_matrices = true;
    Run fixed(options);
    const Run start(options);
    REQUIRE(trained.trainer->collect_bases());
    REQUIRE(fixed.trainer->collect_bases());
    CHECK(fixed.model.mlp_up(0).basis()->out().kind() == SideKind::factor);
    const auto& before = start.model.parameters().all();
    const auto& after = fixed.model.parameters().all();
    for (std::size_t i = 0; i < after.size(); ++i) {
      const bool same = std::equal(after[i].weight.data, after[i].weight.data + after[i].weight.size(),
                                   before[i].weight.data);
      CAPTURE(after[i].name);
      if (after[i].kind == ParameterKind::mlp_matrix) CHECK(same);
      if (after[i].name == "classifier.weight") CHECK_FALSE(same);
    }
    CHECK(fixed.trainer->report().phase1.memory.parts.optimizer <
          trained.trainer->report().phase1.memory.parts.optimizer);
  }
}

TEST_CASE("sides that need no gradients skip phase 1") {
  TrainOptions options = tiny_options(RunType::sparse);
  options.sparse.sides = {"hadamard", "random:16", "", ""};
  options.sparse.scope = BasisScope::layer;
  Run run(options);
  run.trainer->run();
  CHECK(run.trainer->report().phase1.steps == 0);
  CHECK(run.model.mlp_up(0).basis()->in().kind() == SideKind::hadamard);
  CHECK(run.model.mlp_up(0).basis()->out().kind() == SideKind::random);
  CHECK(run.model.mlp_up(0).basis()->rows() == 16);
}

TEST_CASE("every run type trains, and its loss falls") {
  for (const RunType type : every_type) {
    CAPTURE(to_string(type));
    TrainOptions options = tiny_options(type);
    options.max_steps = 60;
    options.epochs = 20;
    options.learning_rate = 3e-3;
    Run run(options, 1, 64);
    const std::vector<float> before = mlp_weights(run.model);
    run.trainer->run();
    const std::vector<double> losses = run.losses();
    REQUIRE(losses.size() == 60);
    CHECK(mean(losses, 56, 4) < mean(losses, 0, 4) - 0.05);
    const bool same = mlp_weights(run.model) == before;
    CHECK(same == (type == RunType::frozen_mlp || type == RunType::lora));
    CHECK(run.trainer->report().best.has_value());
    CHECK((run.trainer->entries_a_step() > 0) == options.steps_sparsely());
  }
}

TEST_CASE("a LoRA run is saved with its adapters merged") {
  Run run(tiny_options(RunType::lora));
  run.trainer->run();
  const std::filesystem::path folder = fresh_folder("lora");
  save_model(folder, tiny_directory(), run.model);
  const ModelDirectory saved = open_model_directory(folder);
  Model plain(run.ctx, run.model.config());
  CHECK(load_weights(saved, plain, 1).text() == "");
  CHECK(mlp_weights(plain) != mlp_weights(run.model));
  const Task& task = find_task("acceptability");
  const std::vector<float> wanted = evaluate_model(run.ctx, run.model, task, run.dev).logits;
  const std::vector<float> found = evaluate_model(run.ctx, plain, task, run.dev).logits;
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(found[i] == doctest::Approx(wanted[i]).epsilon(1e-4));
}

TEST_CASE("beside the MLP matrices their biases and the head alone may train") {
  for (const RunType type : every_type) {
    CAPTURE(to_string(type));
    TrainOptions options = tiny_options(type);
    options.trained = TrainedParameters::mlp;
    Run run(options);
    const auto value_of = [&](const char* name) {
      const auto w = run.model.parameters().at(name).weight;
      return std::vector<float>(w.data, w.data + w.size());
    };
    const auto query = value_of("bert.encoder.layer.0.attention.self.query.weight");
    const auto attention = value_of("bert.encoder.layer.0.attention.output.dense.bias");
    const auto bias = value_of("bert.encoder.layer.0.output.dense.bias");
    run.trainer->run();
    CHECK(value_of("bert.encoder.layer.0.attention.self.query.weight") == query);
    CHECK(value_of("bert.encoder.layer.0.attention.output.dense.bias") == attention);
    CHECK(value_of("bert.encoder.layer.0.output.dense.bias") != bias);
  }
}

TEST_CASE("equal seeds give equal bits, for any number of threads") {
  for (const RunType type : every_type) {
    TrainOptions options = tiny_options(type);
    options.sparse.refresh_every = 5;
    Run first(options);
    Run second(options, 2);
    first.trainer->run();
    second.trainer->run();
    CHECK(first.trainer->state_hash() == second.trainer->state_hash());
    CHECK(first.losses() == second.losses());
    options.seed = 43;
    Run third(options);
    third.trainer->run();
    CHECK(third.trainer->state_hash() != first.trainer->state_hash());
  }
}

TEST_CASE("all run types start with the same loss, dropout included") {
  double first = 0;
  for (const RunType type : every_type) {
    Run run(tiny_options(type));
    REQUIRE(run.trainer->collect_bases());
    run.trainer->step();
    const double loss = run.losses().front();
    if (type == RunType::ft) first = loss;
    CHECK(loss == doctest::Approx(first).epsilon(1e-6));
  }
}

TEST_CASE("accumulated micro-batches are one batch") {
  for (const RunType type : {RunType::ft, RunType::sparse}) {
    TrainOptions options = tiny_options(type);
    options.dropout = 0;
    options.learning_rate = 1e-4;
    options.clip_norm = 1;
    options.batch_size = 32;
    Run whole(options);
    options.batch_size = 16;
    options.accumulation = 2;
    Run parts(options);
    whole.trainer->run();
    parts.trainer->run();
    check_close(parts.losses(), whole.losses(), type == RunType::ft ? 1e-5 : 1e-3);
  }
}

TEST_CASE("several processes start their sums while the last backward pass of a step goes on") {
  const auto layers = tiny_directory().config.layers;
  // Of each layer two matrices, and the dense parameters or, beside adapters, these and those; embeddings and head.
  for (const auto& [type, of_layer] :
       {std::pair(RunType::ft, 3), std::pair(RunType::sparse, 3), std::pair(RunType::lora, 2)}) {
    CAPTURE(type);
    for (const int own_batches : {1, 2}) {
      for (const bool deterministic : {false, true}) {
        TrainOptions options = tiny_options(type);
        options.processes = 2;
        options.accumulation = 2 * own_batches;
        options.batch_size = 4;
        options.deterministic = deterministic;
        Twin twin;
        Run run(options, 1, 160, &twin);
        run.trainer->collect_bases();
        const MatrixView<const float> embeddings = run.model.parameters().all().front().gradient;
        index_t beside = 0;
        index_t behind = 0;
        twin.started = [&] {
          const bool done = std::any_of(embeddings.data, embeddings.data + embeddings.size(),
                                        [](float g) { return g != 0; });
          ++(done ? behind : beside);
        };
        run.trainer->step();
        twin.started = {};
        const index_t times = deterministic ? own_batches : 1;
        CHECK(beside + behind == times * (layers * of_layer + 2));
        if (own_batches == times) CHECK(behind == times * 2);  // else those of the batch before are there
      }
    }
  }
}

TEST_CASE("of several processes, one whose gradients hold NaN is named, its loss being finite") {
  TrainOptions options = tiny_options(RunType::ft);
  options.processes = 2;
  options.accumulation = 2;
  Twin twin;
  Run run(options, 1, 160, &twin);
  const MatrixView<float> embeddings = run.model.parameters().all().front().gradient;
  twin.started = [&] { embeddings.data[0] = std::numeric_limits<float>::quiet_NaN(); };
  check_says(error_of([&] { run.trainer->step(); }), "the gradients of rank 0 hold NaN or Inf");
}

TEST_CASE("all entries without rotation, with dense moments, are full fine-tuning") {
  TrainOptions options = tiny_options(RunType::ft);
  options.weight_decay = 0.1;
  options.clip_norm = 1;
  Run dense(options);
  dense.trainer->run();
  options.run_type = RunType::sparse;
  options.sparse.share = 1;
  options.sparse.sides = {"identity", "identity", "", ""};
  options.sparse.adam = AdamSemantics::dense_core;
  options.sparse.state_capacity = 0;
  Run sparse(options);
  sparse.trainer->run();
  check_close(sparse.losses(), dense.losses(), 1e-5);
}

TEST_CASE("bases are refreshed while training") {
  for (const MomentsPolicy moments : {MomentsPolicy::reset, MomentsPolicy::transport}) {
    TrainOptions options = tiny_options(RunType::sparse);
    options.sparse.refresh_every = 6;
    options.sparse.refresh_window = 2;
    options.sparse.scope = BasisScope::layer;
    options.sparse.state_capacity = 0;
    options.sparse.moments = moments;
    Run run(options);
    run.trainer->run();
    CHECK(run.trainer->report().refreshes == 3);
    CHECK(run.losses().size() == 20);
  }
}

TEST_CASE("a run that is ended and resumed gives the bits of one that was not") {
  for (const RunType type : every_type) {
    CAPTURE(to_string(type));
    TrainOptions options = tiny_options(type);
    options.eval_every = 5;
    options.sparse.refresh_every = 6;
    options.sparse.refresh_window = 2;
    options.sparse.overflow = Overflow::evict_smallest;
    Run whole(options);
    whole.trainer->run();
    for (const index_t at : {3, 5, 13}) {
      CAPTURE(at);
      const std::filesystem::path state = fresh_folder("resume") / "state.safetensors";
      {
        Run first(options);
        TrainHooks hooks;
        hooks.interrupted = [&] { return first.trainer->steps_done() >= at; };
        first.trainer->run(hooks);
        CHECK(first.trainer->report().interrupted);
        CHECK(first.trainer->steps_done() >= at);
        first.trainer->save_state(state);
      }
      Run second(options);
      CHECK(second.trainer->restore_state(state) == "");
      second.trainer->run();
      CHECK(second.trainer->state_hash() == whole.trainer->state_hash());
      CHECK(second.losses() == whole.losses());
      const TrainReport& found = second.trainer->report();
      const TrainReport& wanted = whole.trainer->report();
      REQUIRE(found.evaluations.size() == wanted.evaluations.size());
      for (std::size_t i = 0; i < found.evaluations.size(); ++i) {
        CHECK(found.evaluations[i].step == wanted.evaluations[i].step);
        CHECK(found.evaluations[i].loss == wanted.evaluations[i].loss);
      }
      CHECK(found.best == wanted.best);
      CHECK(found.tokens == wanted.tokens);
    }
  }
}

TEST_CASE("a resumed run knows its losses since the last record, and its patience") {
  TrainOptions options = tiny_options(RunType::ft);
  options.log_every = 4;
  options.eval_every = 3;
  options.patience = 3;
  options.learning_rate = 0;  // the first evaluation stays the best
  Run uninterrupted(options);
  uninterrupted.trainer->run();
  REQUIRE(uninterrupted.trainer->steps_done() == 10);  // evaluations after 3, 6, 9 and, an epoch, 10
  const std::filesystem::path state = fresh_folder("resume_counters") / "state.safetensors";
  {
    Run first(options);
    TrainHooks hooks;
    hooks.interrupted = [&] { return first.trainer->steps_done() >= 7; };  // between records of steps 4 and 8
    first.trainer->run(hooks);
    first.trainer->save_state(state);
  }
  Run second(options);
  second.trainer->restore_state(state);
  second.trainer->run();
  CHECK(second.trainer->steps_done() == uninterrupted.trainer->steps_done());
  CHECK(second.trainer->report().stopped_early);
  const auto& found = second.trainer->report().steps;
  const auto& wanted = uninterrupted.trainer->report().steps;
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].step == wanted[i].step);
    CHECK(found[i].mean_loss == wanted[i].mean_loss);
  }
}

TEST_CASE("a torn or altered state gives way to the one before; another run's is refused") {
  TrainOptions options = tiny_options(RunType::sparse);
  options.checkpoint_every = 4;
  const std::filesystem::path folder = fresh_folder("torn");
  const std::filesystem::path state = folder / "state.safetensors";
  const std::filesystem::path before = folder / "state.safetensors.previous";
  Run run(options);
  TrainHooks hooks;
  hooks.checkpoint = [&] { run.trainer->save_state(state); };
  hooks.interrupted = [&] { return run.trainer->steps_done() >= 9; };
  run.trainer->run(hooks);
  REQUIRE(std::filesystem::exists(before));
  const auto size = std::filesystem::file_size(state);

  Run altered(options);
  {
    std::fstream file(state, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(size / 2));
    file.put('\x2A');
  }
  check_says(altered.trainer->restore_state(state), "hash");
  CHECK(altered.trainer->steps_done() == 4);
  // Out of the way: the next checkpoint must not put it in the place of the good one.
  CHECK_FALSE(std::filesystem::exists(state));
  altered.trainer->save_state(state);
  std::filesystem::resize_file(state, 100);
  {
    Run again(options);
    check_says(again.trainer->restore_state(state), state.string());
    CHECK(again.trainer->steps_done() == 4);
    again.trainer->step();
    again.trainer->save_state(state);
    CHECK(std::filesystem::exists(before));
    Run last(options);
    std::filesystem::resize_file(state, 100);
    last.trainer->restore_state(state);
    CHECK(last.trainer->steps_done() == 4);
  }
  run.trainer->save_state(state);
  // What was written is compared with what should have been.
  run.trainer->check_written(state);
  const std::filesystem::path copy = folder / "copy.safetensors";
  std::filesystem::copy_file(state, copy);
  {
    std::fstream file(copy, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(size / 2));
    file.put('\x2A');
  }
  check_says(error_of([&] { run.trainer->check_written(copy); }), "is not what was written");

  Run torn(options);
  std::filesystem::resize_file(state, size / 2);
  check_says(torn.trainer->restore_state(state), state.string());
  CHECK(torn.trainer->steps_done() == 4);

  options.learning_rate = 2e-3;
  Run other(options);
  check_says(error_of([&] { other.trainer->restore_state(before); }),
             "--learning-rate is 0.002, the run had 0.001");

  std::filesystem::resize_file(before, 100);
  Run none(tiny_options(RunType::sparse));
  const std::string both = error_of([&] { none.trainer->restore_state(state); });
  check_says(both, before.string());
  check_says(both, "there is no whole state to go on from: put a copy back, or start anew without --resume");
  check_says(error_of([&] { none.trainer->restore_state(folder / "nothing"); }), "no state to resume from");
}

TEST_CASE("memory is estimated before it is taken, and refused when there is not enough") {
  struct Kind {
    RunType type;
    bool fixed = false;
    bool one_sided = false;
    index_t accumulation = 1;
  };
  for (const Kind& kind : {Kind{RunType::ft}, Kind{RunType::lora}, Kind{RunType::meprop},
                           Kind{RunType::frozen_mlp}, Kind{RunType::topk}, Kind{RunType::sparse},
                           Kind{RunType::sparse, true}, Kind{RunType::sparse, false, true},
                           Kind{RunType::sparse, true, true}, Kind{RunType::sparse, false, false, 2}}) {
    TrainOptions options = tiny_options(kind.type);
    options.accumulation = kind.accumulation;
    options.sparse.phase1_fixed_matrices = kind.fixed;
    if (kind.one_sided) {
      options.sparse.sides.width = "8";
      options.sparse.sides.other = "identity";
      options.sparse.share = 1;
      options.sparse.scope = BasisScope::layer;
      options.sparse.adam = AdamSemantics::dense_core;
      options.sparse.refresh_every = 5;
    }
    options.apply_run_type();
    CAPTURE(to_json(options).dump());
    Run run(options);
    const MemoryEstimate estimate =
        estimate_memory(run.model.config(), options, measure_batches(options, run.train).max_tokens);
    TrainHooks hooks;
    hooks.restore_weights = [&] { load_weights(tiny_directory(), run.model, options.seed); };
    run.trainer->run(hooks);
    // Working memory of fixed size, which a model of any real size does not notice.
    constexpr index_t constants = 256 << 10;
    const MemoryParts& wanted = estimate.training;
    const MemoryParts& found = run.trainer->report().memory.parts;
    CAPTURE(to_json(wanted).dump());
    CAPTURE(to_json(found).dump());
    const auto near = [&](index_t a, index_t b) {
      CHECK(static_cast<double>(a) >= 0.95 * static_cast<double>(b));
      // A sparse state may have become dense, and has not in every run.
      if (!options.steps_sparsely()) CHECK(static_cast<double>(a) <= 1.05 * static_cast<double>(b));
    };
    near(wanted.weights, found.weights);
    near(wanted.gradients, found.gradients);
    near(wanted.optimizer, found.optimizer);
    near(wanted.collection, found.collection);
    CHECK(wanted.basis >= found.basis);
    CHECK(wanted.activations + constants >= found.activations);
    const PhaseOneRecord& phase1 = run.trainer->report().phase1;
    CHECK((phase1.steps > 0) == (estimate.phase1.sum() > 0));
    if (phase1.steps > 0) {
      CAPTURE(to_json(estimate.phase1).dump());
      CAPTURE(to_json(phase1.memory.parts).dump());
      CHECK(estimate.phase1.sum() + constants >= phase1.memory.parts.sum());
      CHECK(estimate.phase1.sum() <= phase1.memory.parts.sum() + constants);
      CHECK(estimate.phase1.collection == phase1.memory.parts.collection);
    }
    CHECK(estimate.least <= estimate.largest().sum());
    require_memory(estimate, 0);
    require_memory(estimate, estimate.least);
    CHECK_THROWS_WITH_AS(require_memory(estimate, estimate.least - 1),
                         doctest::Contains("this run needs at least"), ModelError);
  }
}

TEST_CASE("training stops when the metric does not improve") {
  TrainOptions options = tiny_options(RunType::ft);
  options.learning_rate = 0;
  options.eval_every = 2;
  options.patience = 2;
  Run run(options);
  index_t kept = 0;
  TrainHooks hooks;
  hooks.keep_best = [&] { ++kept; };
  run.trainer->run(hooks);
  CHECK(run.trainer->report().stopped_early);
  CHECK(run.trainer->report().evaluations.size() == 3);
  CHECK(run.trainer->steps_done() == 6);
  CHECK(kept == 1);
}

TEST_CASE("an interrupt ends after the step, in phase 1 too") {
  TrainOptions options = tiny_options(RunType::sparse);
  for (const int after : {2, 7}) {
    Run run(options);
    int asked = 0;
    TrainHooks hooks;
    hooks.interrupted = [&] { return ++asked > after; };
    const std::uint64_t before = run.trainer->state_hash();
    run.trainer->run(hooks);
    CHECK(run.trainer->report().interrupted);
    if (after == 2) {
      CHECK(run.trainer->steps_done() == 0);
      CHECK(run.trainer->state_hash() == before);
    } else {
      CHECK(run.trainer->steps_done() > 0);
      CHECK(run.trainer->steps_done() < 20);
    }
  }
}

TEST_CASE("an interrupt during the last evaluation is one: the run goes on with that evaluation") {
  const TrainOptions options = tiny_options(RunType::ft);
  const std::filesystem::path state = fresh_folder("last_evaluation") / "state.safetensors";
  bool evaluating = false;
  TrainHooks hooks;
  hooks.progress = [&](std::string_view what, index_t, index_t) { evaluating = what == "evaluation"; };
  Run first(options);
  hooks.interrupted = [&] { return evaluating && first.trainer->steps_done() == 20; };
  first.trainer->run(hooks);
  CHECK(first.trainer->steps_done() == 20);
  CHECK(first.trainer->report().interrupted);
  const std::size_t done = first.trainer->report().evaluations.size();
  first.trainer->save_state(state);

  // The evaluation before the loop may be interrupted as well.
  Run second(options);
  second.trainer->restore_state(state);
  evaluating = false;
  hooks.interrupted = [&] { return evaluating; };
  second.trainer->run(hooks);
  CHECK(second.trainer->report().interrupted);
  CHECK(second.trainer->report().evaluations.size() == done);

  Run third(options);
  third.trainer->restore_state(state);
  third.trainer->run();
  CHECK_FALSE(third.trainer->report().interrupted);
  CHECK(third.trainer->report().evaluations.size() == done + 1);
}

TEST_CASE("memory figures outlive an end: the larger ones count") {
  const TrainOptions options = tiny_options(RunType::sparse);
  const std::filesystem::path state = fresh_folder("memory") / "state.safetensors";
  Run first(options);
  TrainHooks hooks;
  hooks.interrupted = [&] { return first.trainer->steps_done() >= 5; };
  first.trainer->run(hooks);
  first.trainer->save_state(state);
  const TrainReport& before = first.trainer->report();
  REQUIRE(before.phase1.memory.process_peak > 0);
  Run second(options);
  second.trainer->restore_state(state);
  const TrainReport& after = second.trainer->report();
  CHECK(to_json(after.phase1.memory) == to_json(before.phase1.memory));
  CHECK(to_json(after.memory) == to_json(before.memory));
  second.trainer->run();
  CHECK(after.memory.process_peak >= before.memory.process_peak);
  CHECK(after.memory.parts.sum() >= before.memory.parts.sum());
  CHECK(to_json(after.phase1.memory) == to_json(before.phase1.memory));
}

TEST_CASE("an undefined metric is no best one, and the log says it") {
  TrainReport report;
  EvaluationRecord undefined;
  undefined.metrics = {{"pearson", 0, false}};
  report.evaluations = {undefined};
  report.best = 0;
  CHECK(to_json(report)["best"]["defined"] == false);
  report.evaluations[0].metrics[0] = {"pearson", -0.5, true};
  CHECK(to_json(report)["best"]["defined"] == true);
  CHECK(to_json(report)["best"]["value"] == -0.5);
}

TEST_CASE("adapters begin as LoRA's do: B is 0, A uniform or normal, the scale 1 / rank unless given") {
  TrainOptions options = tiny_options(RunType::lora);
  options.lora.rank = 7;
  CHECK(trained_parts(options).mlp.lora_scale == doctest::Approx(1.0 / 7));
  for (const LoraInit init : {LoraInit::kaiming, LoraInit::gaussian}) {
    options.lora.init = init;
    const Run run(options);
    double squares = 0;
    index_t count = 0;
    for (const Parameter<float>& p : run.model.parameters().all()) {
      if (p.kind != ParameterKind::adapter) continue;
      const bool b = p.name.ends_with(".lora_B.weight");
      // Uniform in +-1 / sqrt(in) has the deviation 1 / sqrt(3 in).
      const double edge = 1 / std::sqrt(static_cast<double>(p.weight.cols));
      const double deviation = init == LoraInit::kaiming ? edge / std::sqrt(3.0) : 1.0 / 7;
      double largest = 0;
      for (index_t i = 0; i < p.weight.size(); ++i) {
        const double value = p.weight.data[i];
        largest = std::max(largest, std::abs(value));
        if (!b) squares += value * value / (deviation * deviation);
      }
      if (b) {
        CHECK(largest == 0);
        continue;
      }
      count += p.weight.size();
      if (init == LoraInit::kaiming) CHECK(largest <= edge);
      if (init == LoraInit::kaiming) CHECK(largest > 0.9 * edge);
    }
    // The mean square of `count` numbers of a deviation of 1 is off by less than 5 / sqrt(count).
    REQUIRE(count == 2 * 7 * (32 + 64));
    CHECK(squares / static_cast<double>(count) == doctest::Approx(1).epsilon(5 * std::sqrt(2.0 / 1344)));
  }
  options.lora.scale = 0.5;
  CHECK(trained_parts(options).mlp.lora_scale == 0.5);
}

TEST_CASE("a loss that is no number ends the run with the step's number") {
  TrainOptions options = tiny_options(RunType::ft);
  options.learning_rate = 1e30;
  Run run(options);
  check_says(error_of([&] { run.trainer->run(); }), "expected a finite number");
}

TEST_CASE("padding changes nothing but time") {
  TrainOptions options = tiny_options(RunType::sparse);
  options.dropout = 0;
  options.learning_rate = 1e-4;
  options.max_steps = 5;
  Run unpadded(options);
  options.padding = Padding::max_length;
  Run padded(options);
  unpadded.trainer->run();
  padded.trainer->run();
  check_close(padded.losses(), unpadded.losses(), 1e-3);
}

TEST_CASE("the log holds what happened") {
  TrainOptions options = tiny_options(RunType::sparse);
  options.eval_every = 10;
  Run run(options);
  run.trainer->run();
  const nlohmann::json json = to_json(run.trainer->report());
  CHECK(json["steps"].size() == 20);
  CHECK(json["steps"][0]["step"] == 1);
  CHECK(json["steps"][0]["learning_rate"] == 1e-3);
  CHECK(json["steps"][0]["tokens"] > 16);
  CHECK(json["steps"][0]["kept_entries"] == run.trainer->entries_a_step());
  CHECK(json["evaluations"].size() == 2);
  CHECK(json["evaluations"][0]["metrics"].contains("matthews_correlation"));
  CHECK(json["best"]["metric"] == "matthews_correlation");
  CHECK(json["phase1"]["steps"] == 4);
  CHECK(json["time"]["steps_per_second"] > json["time"]["steps_per_second_with_all"]);
  CHECK(json["memory"]["parts_bytes"]["weights"] > 0);
  CHECK(json["interrupted"] == false);
}

TEST_CASE("predictions: a line an example, read back as they were") {
  Run run(tiny_options(RunType::ft));
  const Task& task = find_task("acceptability");
  const Evaluation evaluation = evaluate_model(run.ctx, run.model, task, run.dev);
  const std::string text = predictions_text(task, evaluation, run.dev);
  std::istringstream in(text);
  std::string line;
  std::size_t number = 0;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    float a = 0;
    float b = 0;
    int label = -1;
    fields >> a >> b >> label;
    CHECK(a == evaluation.logits[2 * number]);
    CHECK(b == evaluation.logits[2 * number + 1]);
    CHECK(static_cast<float>(label) == run.dev.label(static_cast<index_t>(number)));
    ++number;
  }
  CHECK(number == 40);
}

TEST_CASE("submissions: numbers, names or scores") {
  Evaluation evaluation;
  evaluation.outputs = 2;
  evaluation.logits = {1, 0, -1, 2};
  CHECK(submission_text(find_task("cola"), evaluation) == "index\tprediction\n0\t0\n1\t1\n");
  CHECK(submission_text(find_task("rte"), evaluation) ==
        "index\tprediction\n0\tentailment\n1\tnot_entailment\n");
  const std::vector<std::string> indices{"7", "3"};  // the file's own, where it has them
  CHECK(submission_text(find_task("cola"), evaluation, indices) == "index\tprediction\n7\t0\n3\t1\n");
  evaluation.outputs = 1;
  evaluation.logits = {-0.25F, 2.5F, 7};
  CHECK(submission_text(find_task("stsb"), evaluation) ==
        "index\tprediction\n0\t0.000\n1\t2.500\n2\t5.000\n");
}

TEST_CASE("the reference's rotation has U^T in place of U, and layers of a kind go on sharing it") {
  TrainOptions options = tiny_options(RunType::sparse);
  Run right(options);
  REQUIRE(right.trainer->collect_bases());
  options.sparse.defects.transposed_basis = true;
  Run wrong(options);
  REQUIRE(wrong.trainer->collect_bases());
  CHECK(wrong.model.mlp_up(0).basis() == wrong.model.mlp_up(1).basis());
  const auto u = right.model.mlp_up(0).basis()->in().factor();
  const auto other = wrong.model.mlp_up(0).basis()->in().factor();
  REQUIRE(u.rows == other.cols);
  double difference = 0;
  for (index_t i = 0; i < u.rows; ++i) {
    for (index_t j = 0; j < u.cols; ++j) {
      CHECK(other(j, i) == u(i, j));
      difference =
          std::max(difference, std::abs(static_cast<double>(other(i, j)) - static_cast<double>(u(i, j))));
    }
  }
  CHECK(difference > 0.1);
  wrong.trainer->run();
  CHECK(wrong.trainer->report().steps_done == 20);
}

TEST_CASE("the reference's bias gradient is V^T db") {
  Run run(tiny_options(RunType::sparse));
  REQUIRE(run.trainer->collect_bases());
  Parameter<float>& bias = run.model.parameters().at("bert.encoder.layer.1.intermediate.dense.bias");
  std::vector<float> before;
  for (index_t i = 0; i < bias.gradient.size(); ++i) {
    bias.gradient.data[i] = std::sin(static_cast<float>(i));
    before.push_back(bias.gradient.data[i]);
  }
  rotate_bias_gradients(run.ctx, run.model);
  // The factor's rows are the columns of V.
  const auto v = run.model.mlp_up(1).basis()->out().factor();
  for (index_t r = 0; r < v.rows; ++r) {
    double expected = 0;
    for (index_t o = 0; o < v.cols; ++o)
      expected += static_cast<double>(v(r, o)) * static_cast<double>(before[static_cast<std::size_t>(o)]);
    CHECK(bias.gradient.data[r] == doctest::Approx(expected).epsilon(1e-4));
  }
}

TEST_CASE("LayerNorms may stay as they are in sparse runs, in others they train") {
  for (const RunType type : {RunType::sparse, RunType::ft}) {
    TrainOptions options = tiny_options(type);
    options.sparse.defects.frozen_layer_norm = true;
    options.apply_run_type();
    Run run(options);
    const Parameter<float>& norm =
        std::as_const(run.model).parameters().at("bert.encoder.layer.0.output.LayerNorm.weight");
    run.trainer->run();
    const bool same = std::all_of(norm.weight.data, norm.weight.data + norm.weight.size(),
                                  [](float w) { return w == 1.0F; });
    CHECK(same == (type == RunType::sparse));
  }
}

TEST_CASE("the signed threshold keeps more than k, and its least when few are positive") {
  GlueContext ctx(1, true);
  std::vector<float> core{3, -3, 2, -5, 1, -1, 0.5F, 0};
  SparseGradient<float, HostBackend> kept(ctx, 2, 4, 6);
  const MatrixView<float> view(core.data(), 2, 4);
  // The second largest signed entry is 2.
  CHECK(SignedThreshold<HostBackend>{2}(ctx, view, kept).kept == 4);
  CHECK(kept.indices()[0] == 0);
  CHECK(kept.values()[3] == -5);
  // Without enough positive ones every entry reaches the threshold: as many as there is room for.
  for (float& g : core)
    g = -std::abs(g);
  CHECK(SignedThreshold<HostBackend>{2}(ctx, view, kept).kept == 6);

  TrainOptions options = tiny_options(RunType::sparse);
  options.sparse.defects.signed_selection = true;
  Run run(options);
  run.trainer->run();
  const index_t k = kept_entries(options.sparse, 32 * 64);
  for (const StepRecord& record : run.trainer->report().steps) {
    CHECK(record.kept > 4 * k);
    CHECK(record.kept <= 4 * 3 * k);
  }
}
