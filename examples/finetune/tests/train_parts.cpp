// The small parts of the trainer: sampler, learning rate, options, presets, files, predictions.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>

#include <sparsegrad/io/side_recipe_text.hpp>

#include "files.hpp"
#include "replication/presets.hpp"
#include "support/event_files.hpp"
#include "training/optimizer/adamw.hpp"
#include "training/optimizer/learning_rate.hpp"
#include "training/output/event_file.hpp"
#include "training/output/output_file.hpp"
#include "training/output/output_folder.hpp"
#include "training/output/train_output.hpp"
#include "training/sampler.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

std::vector<index_t> epoch_of(Sampler& sampler, index_t step) {
  std::vector<index_t> all;
  do {
    const auto part = sampler.take(step);
    all.insert(all.end(), part.begin(), part.end());
  } while (!sampler.at_epoch_end());
  return all;
}

}  // namespace

TEST_CASE("each epoch has every example once, in an order of its own") {
  Sampler sampler(10, 3, true);
  const std::vector<index_t> first = epoch_of(sampler, 4);
  const std::vector<index_t> second = epoch_of(sampler, 4);
  CHECK(first.size() == 10);
  CHECK(std::set<index_t>(first.begin(), first.end()).size() == 10);
  CHECK(std::set<index_t>(second.begin(), second.end()).size() == 10);
  CHECK(first != second);
  Sampler again(10, 3, true);
  CHECK(epoch_of(again, 3) == first);
  Sampler other(10, 4, true);
  CHECK(epoch_of(other, 4) != first);
}

TEST_CASE("the order is the same on every machine") {
  Sampler sampler(8, 42, true);
  CHECK(epoch_of(sampler, 8) == std::vector<index_t>{0, 3, 1, 2, 7, 5, 6, 4});
}

TEST_CASE("a part never reaches over the end of an epoch; seek goes back") {
  Sampler sampler(5, 1, false);
  CHECK(sampler.take(3).size() == 3);
  const Sampler::Position there = sampler.position();
  const auto rest = sampler.take(3);
  CHECK(std::vector<index_t>(rest.begin(), rest.end()) == std::vector<index_t>{3, 4});
  CHECK(sampler.take(3)[0] == 0);
  CHECK(sampler.position().epoch == 1);
  sampler.seek(there);
  CHECK(sampler.take(1)[0] == 3);
  // Back to an epoch's own order.
  Sampler shuffled(8, 42, true);
  shuffled.take(5);
  const Sampler::Position before = shuffled.position();
  for (int i = 0; i < 2; ++i)
    shuffled.take(8);
  CHECK(shuffled.position().epoch == 1);
  shuffled.seek(before);
  const auto last = shuffled.take(8);
  CHECK(std::vector<index_t>(last.begin(), last.end()) == std::vector<index_t>{5, 6, 4});
}

TEST_CASE("learning rates as transformers' schedules") {
  const LearningRate constant(Schedule::constant, 0, 10);
  CHECK(constant.factor(0) == 1.0);
  CHECK(constant.factor(9) == 1.0);
  const LearningRate linear(Schedule::linear, 2, 10);
  CHECK(linear.factor(0) == 0.0);
  CHECK(linear.factor(1) == 0.5);
  CHECK(linear.factor(2) == 1.0);
  CHECK(linear.factor(6) == 0.5);
  CHECK(linear.factor(9) == doctest::Approx(0.125));
  const LearningRate share(Schedule::constant, 0.2, 10);
  CHECK(share.factor(1) == 0.5);
  CHECK(share.factor(2) == 1.0);
}

TEST_CASE("clipping brings large gradients down and leaves small ones") {
  CHECK(clip_factor(4, 1) == doctest::Approx(0.25).epsilon(1e-5));  // torch adds 1e-6 to the norm
  CHECK(clip_factor(0.25, 1) == 1);
  CHECK(clip_factor(0, 1) == 1);
}

TEST_CASE("kept entries scale with the matrix") {
  SparseOptions options;
  CHECK(kept_entries(options, 768 * 3072) == 28000);
  CHECK(kept_entries(options, 384 * 1536) == 7000);
  options.n_params = 100000000;
  CHECK(kept_entries(options, 100) == 100);
  options.share = 0.25;
  CHECK(kept_entries(options, 100) == 25);
}

TEST_CASE("sides by the model's width, or by out and in") {
  SideOptions sides;
  sides.width = "64";
  sides.other = "identity";
  CHECK(to_string(sides.rules("up").in) == "64");
  CHECK(to_string(sides.rules("up").out) == "identity");
  CHECK(to_string(sides.rules("down").out) == "64");
  CHECK(to_string(sides.rules("down").in) == "identity");
  sides.out = "hadamard";
  CHECK(to_string(sides.rules("up").out) == "hadamard");
  CHECK(to_string(sides.rules("down").out) == "hadamard");
  sides.in = "nonsense";
  check_says(error_of([&] { sides.rules("up"); }), "nonsense");
}

TEST_CASE("which sides need phase 1") {
  SparseOptions options;
  CHECK(options.needs_gradients());
  options.sides.width = "hadamard";
  CHECK(options.needs_gradients());
  options.sides.other = "random:64";
  CHECK_FALSE(options.needs_gradients());
}

TEST_CASE("options that make no sense are refused by name") {
  TrainOptions options;
  options.check();
  const auto refused = [](auto change, const char* name) {
    TrainOptions changed;
    change(changed);
    check_says(error_of([&] { changed.check(); }), name);
  };
  refused([](TrainOptions& o) { o.batch_size = 0; }, "--batch-size is 0");
  refused([](TrainOptions& o) { o.accumulation = std::numeric_limits<index_t>::max(); },
          "--accumulation is 9223372036854775807, expected fewer micro-batches");
  refused([](TrainOptions& o) { o.learning_rate = -1; }, "--learning-rate is -1");
  refused([](TrainOptions& o) { o.dropout = 1.0; }, "--dropout is 1");
  refused([](TrainOptions& o) { o.wire = NumberType::float16; }, "--wire is fp16, expected float or bf16");
  refused([](TrainOptions& o) { o.wire = NumberType::bfloat16, o.deterministic = true; },
          "--wire is bf16, expected float with --deterministic");
  refused([](TrainOptions& o) { o.sparse.share = 2; }, "--share is 2");
  refused([](TrainOptions& o) { o.sparse.plan = "x"; }, "--plan is 'x'");
  refused([](TrainOptions& o) { o.sparse.phase1_steps = 0; }, "--phase1-steps is 0");
  refused([](TrainOptions& o) { o.sparse.state_capacity = 0.5; }, "--state-capacity is 0.5");
}

TEST_CASE("presets are found by name") {
  CHECK(find_preset("paper").options.front().second == "kind");
  check_says(error_of([] { find_preset("nothing"); }), "expected one of: paper, best, none");
}

TEST_CASE("the paper's learning rates by model, task and run type") {
  ModelConfig config;
  config.hidden = 384;
  CHECK(paper_rate(config, "cola", RunType::ft).learning_rate == 1.01e-5);
  CHECK(paper_rate(config, "cola", RunType::ft).batch_size == 16);
  CHECK(paper_rate(config, "wnli", RunType::meprop).learning_rate == 2.52e-6);
  config.family = ModelFamily::roberta;
  CHECK(paper_rate(config, "mnli-mm", RunType::lora).learning_rate == 1.04e-5);
  config.hidden = 1024;
  CHECK(paper_rate(config, "stsb", RunType::sparse).learning_rate == 2.11e-5);
  check_says(error_of([&] { paper_rate(config, "acceptability", RunType::ft); }), "task 'acceptability'");
  CHECK(protocol_eval_every("rte", 16) == 10);
  CHECK(protocol_eval_every("cola", 32) == 50);
}

TEST_CASE("the paper's learning rates and batch sizes, all 81 of them") {
  // Task; then ft, lora, sparse of BERT, of RoBERTa-base, of RoBERTa-large.
  struct Row {
    const char* task;
    std::array<std::pair<double, index_t>, 9> chosen;
  };
  // clang-format off
  const Row rows[] = {
      {"cola", {{{1.01e-5, 16}, {2.60e-5, 32}, {3.15e-5, 32}, {1.85e-5, 32}, {3.20e-5, 32}, {2.61e-5, 32}, {1.06e-5, 16}, {5.86e-6, 16}, {1.27e-5, 32}}}},
      {"mnli", {{{1.51e-5, 32}, {1.00e-5, 16}, {6.07e-6, 32}, {1.15e-6, 16}, {1.04e-5, 32}, {1.00e-5, 32}, {1.01e-6, 16}, {1.09e-6, 16}, {4.34e-6, 32}}}},
      {"mrpc", {{{1.90e-5, 16}, {3.11e-5, 16}, {1.22e-5, 32}, {2.47e-5, 32}, {7.02e-5, 32}, {4.63e-5, 32}, {6.79e-6, 16}, {1.56e-5, 16}, {1.96e-5, 16}}}},
      {"qnli", {{{1.91e-5, 16}, {1.73e-5, 16}, {1.94e-5, 16}, {8.38e-6, 16}, {5.54e-5, 32}, {1.66e-5, 16}, {2.35e-6, 32}, {1.19e-5, 16}, {5.56e-6, 16}}}},
      {"qqp", {{{5.11e-6, 16}, {9.25e-6, 32}, {1.41e-5, 32}, {7.20e-6, 32}, {5.32e-6, 16}, {1.40e-5, 32}, {4.48e-6, 32}, {1.57e-5, 32}, {2.89e-6, 32}}}},
      {"rte", {{{3.05e-5, 32}, {3.84e-5, 16}, {6.81e-5, 16}, {1.74e-5, 32}, {1.61e-5, 16}, {1.81e-5, 16}, {6.49e-6, 16}, {4.17e-5, 16}, {2.10e-5, 32}}}},
      {"sst2", {{{1.33e-5, 16}, {4.07e-5, 32}, {1.47e-5, 32}, {1.02e-5, 32}, {1.49e-5, 32}, {2.30e-5, 32}, {8.77e-6, 32}, {5.01e-6, 16}, {1.46e-6, 32}}}},
      {"stsb", {{{2.70e-5, 16}, {1.12e-4, 32}, {1.24e-4, 32}, {7.71e-5, 32}, {4.87e-5, 16}, {1.87e-5, 16}, {1.11e-5, 32}, {2.96e-5, 16}, {2.11e-5, 16}}}},
      {"wnli", {{{9.13e-4, 32}, {1.57e-5, 32}, {2.52e-6, 32}, {2.34e-5, 16}, {3.11e-5, 16}, {6.48e-5, 32}, {1.57e-6, 16}, {4.14e-5, 32}, {1.32e-6, 16}}}},
  };
  // clang-format on
  const RunType types[] = {RunType::ft, RunType::lora, RunType::sparse};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < 9; ++i) {
      ModelConfig config;
      config.family = i < 3 ? ModelFamily::bert : ModelFamily::roberta;
      config.hidden = i < 6 ? 768 : 1024;
      CAPTURE(row.task);
      CAPTURE(i);
      const PaperRate rate = paper_rate(config, row.task, types[i % 3]);
      CHECK(rate.learning_rate == row.chosen[i].first);
      CHECK(rate.batch_size == row.chosen[i].second);
      if (i % 3 == 2) {
        for (const RunType same : {RunType::topk, RunType::meprop})
          CHECK(paper_rate(config, row.task, same).learning_rate == rate.learning_rate);
      }
      CHECK(paper_lora_rank(config) == (i < 6 ? 7 : 10));
    }
  }
  const std::pair<const char*, index_t> intervals[] = {{"cola", 100},  {"mnli", 10000}, {"mrpc", 100},
                                                       {"qnli", 100},  {"qqp", 10000},  {"rte", 10},
                                                       {"sst2", 1000}, {"stsb", 100},   {"wnli", 10}};
  for (const auto& [task, steps] : intervals) {
    CHECK(protocol_eval_every(task, 16) == steps);
    CHECK(protocol_eval_every(task, 32) == steps / 2);
  }
}

TEST_CASE("the reference's protocol, and what its defects exclude") {
  TrainOptions options;
  options.sparse.defects.transposed_basis = true;
  options.sparse.refresh_every = 10;
  check_says(error_of([&] { options.check(); }), "--refresh-every is 10");
  options.sparse.refresh_every = 0;
  options.sparse.sides.other = "64";
  check_says(error_of([&] { options.check(); }), "--transposed-basis: the input side needs the full rank");
  options.sparse.defects = {};
  options.sparse.defects.rotated_bias = true;
  check_says(error_of([&] { options.check(); }), "--rotated-bias: the output side needs the full rank");
  options.run_type = RunType::ft;
  options.apply_run_type();
  CHECK_FALSE(options.sparse.defects.any());
}

TEST_CASE("events are TFRecords with the checksums of RFC 3720") {
  // The RFC's examples, B.4.
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43U);
  CHECK(crc32c("123456789") == 0xE3069283U);
  const auto folder = fresh_folder("events");
  EventFile events(folder);
  events.add(300, {{"a", 1.0}, {"loss", 0.5}});
  EventFile other(folder);
  CHECK(other.path() != events.path());
  std::ifstream in(events.path(), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    REQUIRE(at + 16 + length <= bytes.size());
    records.push_back(bytes.substr(at + 12, length));
    for (const auto& [begin, size] :
         {std::pair(at, std::size_t{8}), std::pair(at + 12, records.back().size())}) {
      std::uint32_t found = 0;
      std::memcpy(&found, bytes.data() + begin + size, 4);
      const std::uint32_t crc = crc32c(bytes.substr(begin, size));
      CHECK(found == ((crc >> 15) | (crc << 17)) + 0xA282EAD8U);  // as TFRecord masks it
    }
    at += 16 + length;
  }
  REQUIRE(records.size() == 3);
  check_says(records[0], "brain.Event:2");
  // Step 0, SessionLog START.
  CHECK(records[1].substr(9) == std::string("\x10\x00\x3A\x02\x08\x01", 6));
  // Step 300 as a varint; then the summary: value "a" with its float.
  CHECK(records[2].substr(9, 3) == std::string("\x10\xAC\x02"));
  check_says(records[2], std::string("\x0A\x01") + "a" + std::string("\x15\x00\x00\x80\x3F", 5));
  check_says(error_of([] { EventFile file("/dev/null/x"); }), "/dev/null/x");
}

TEST_CASE(
    "a later event file takes the place of earlier ones from its first step on, whatever the clock says") {
  const auto folder = fresh_folder("later_events");
  finetune::test::write_file(folder / "events.out.tfevents.4000000000.sparsegrad", "");  // of the year 2096
  finetune::test::write_file(folder / "events.out.tfevents.99999999999999999999.x", "");
  EventFile first(folder);
  CHECK(first.path().filename() == "events.out.tfevents.4000000001.sparsegrad");
  for (const int step : {1, 2, 3, 4})
    first.add(step, {{"loss", 1.0}});
  std::filesystem::resize_file(first.path(), std::filesystem::file_size(first.path()) - 3);  // torn
  EventFile second(folder, 3);
  for (const int step : {3, 4, 5})
    second.add(step, {{"loss", 2.0}});
  CHECK(shown_steps(folder)["loss"] == std::vector<std::int64_t>{1, 2, 3, 4, 5});
}

TEST_CASE("a run that goes on shows each step once, and the evaluation that it makes up") {
  const auto folder = fresh_folder("events_of_parts");
  TrainReport report;
  const auto take_steps = [&](index_t last) {
    while (report.steps_done < last) {
      StepRecord record;
      record.step = ++report.steps_done;
      report.steps.push_back(record);
    }
  };
  const auto evaluate = [&] {
    EvaluationRecord record;
    record.step = report.steps_done;
    report.evaluations.push_back(record);
  };
  EventLog first(folder, report);
  take_steps(2);
  evaluate();
  take_steps(4);
  first.update(report);
  const TrainReport state = report;
  // Killed after the evaluation of step 4, of which the state knows nothing.
  evaluate();
  take_steps(6);
  first.update(report);
  for (int part = 0; part < 2; ++part) {
    report = state;
    EventLog log(folder, report);
    evaluate();
    log.update(report);
  }
  take_steps(5);
  EventLog(folder, state).update(report);
  auto shown = shown_steps(folder);
  CHECK(shown["train/loss"] == std::vector<std::int64_t>{1, 2, 3, 4, 5});
  CHECK(shown["dev/loss"] == std::vector<std::int64_t>{2, 4});
}

TEST_CASE("files are whole or not there, and a full disk is told") {
  const auto folder = fresh_folder("files");
  sparsegrad::finetune::write_file(folder / "a.txt", "one");
  sparsegrad::finetune::write_file(folder / "a.txt", "two");
  std::ifstream in(folder / "a.txt");
  std::string text;
  in >> text;
  CHECK(text == "two");
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);  // nothing is left beside it
  check_says(error_of([] { sparsegrad::finetune::write_file("/dev/full", "x"); }), "No space left on device");
  check_says(error_of([&] { sparsegrad::finetune::write_file(folder / "none" / "a", "x"); }),
             "No such file or directory");
  check_says(error_of([&] { make_folder(folder / "a.txt" / "b"); }), "cannot make this folder");
}

TEST_CASE("an output folder is one process's, and knows whose files are whose") {
  const auto folder = fresh_folder("output");
  finetune::test::write_file(folder / "model" / "config.json", "not a run's");
  {
    OutputFolder output(folder);
    check_says(error_of([&] { OutputFolder second(folder); }), "another process is running in this folder");
    output.clear();  // no log: nothing here is a run's
    CHECK(std::filesystem::exists(folder / "model" / "config.json"));
    check_says(error_of([&] { output.require_not_written(folder / "model"); }), "--model is");
    output.require_not_written(folder / "elsewhere");
  }
  finetune::test::write_file(folder / "run.json", R"({"format": "another program's"})");
  OutputFolder output(folder);  // the lock went with the object
  output.clear();
  CHECK(std::filesystem::exists(folder / "model" / "config.json"));
  finetune::test::write_file(folder / "run.json", R"({"format": "sparsegrad-glue run 1"})");
  for (const char* state : {"state.safetensors", "state.safetensors.previous", "state.safetensors.torn"})
    finetune::test::write_file(output.checkpoint() / state, "x");
  for (const char* of_interrupt : {"model.safetensors", "config.json", "vocab.txt"})
    finetune::test::write_file(output.checkpoint() / of_interrupt, "x");
  CHECK(output.has_state());
  output.remove_checkpoint();
  CHECK_FALSE(output.has_state());
  CHECK_FALSE(std::filesystem::exists(output.checkpoint()));
  output.clear();
  CHECK_FALSE(std::filesystem::exists(output.model()));
  CHECK_FALSE(std::filesystem::exists(output.log()));
}
