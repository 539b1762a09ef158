// The small parts of the trainer: sampler, learning rate, options, presets, files, predictions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>

#include "files.hpp"
#include "train/event_file.hpp"
#include "train/learning_rate.hpp"
#include "train/output_file.hpp"
#include "train/presets.hpp"
#include "train/sampler.hpp"

using namespace sparsegrad;
using namespace sparsegrad::glue;
using namespace sparsegrad::glue::test;

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
  CHECK(sides.rules("up").in.to_string() == "64");
  CHECK(sides.rules("up").out.to_string() == "identity");
  CHECK(sides.rules("down").out.to_string() == "64");
  CHECK(sides.rules("down").in.to_string() == "identity");
  sides.out = "hadamard";
  CHECK(sides.rules("up").out.to_string() == "hadamard");
  CHECK(sides.rules("down").out.to_string() == "hadamard");
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
  refused([](TrainOptions& o) { o.learning_rate = -1; }, "--learning-rate is -1");
  refused([](TrainOptions& o) { o.dropout = 1.0; }, "--dropout is 1");
  refused([](TrainOptions& o) { o.sparse.share = 2; }, "--share is 2");
  refused([](TrainOptions& o) { o.sparse.plan = "x"; }, "--plan is 'x'");
  refused([](TrainOptions& o) { o.sparse.phase1_steps = 0; }, "--phase1-steps is 0");
  refused([](TrainOptions& o) { o.sparse.state_capacity = 0.5; }, "--state-capacity is 0.5");
}

TEST_CASE("presets are found by name") {
  CHECK(find_preset("paper").options.front().second == "kind");
  check_says(error_of([] { find_preset("nothing"); }), "expected one of: paper, best");
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
    at += 16 + length;
  }
  REQUIRE(records.size() == 2);
  check_says(records[0], "brain.Event:2");
  // Step 300 as a varint; then the summary: value "a" with its float.
  CHECK(records[1].substr(9, 3) == std::string("\x10\xAC\x02"));
  check_says(records[1], std::string("\x0A\x01") + "a" + std::string("\x15\x00\x00\x80\x3F", 5));
  check_says(error_of([] { EventFile file("/dev/null/x"); }), "/dev/null/x");
}

TEST_CASE("files are whole or not there, and a full disk is told") {
  const auto folder = fresh_folder("files");
  sparsegrad::glue::write_file(folder / "a.txt", "one");
  sparsegrad::glue::write_file(folder / "a.txt", "two");
  std::ifstream in(folder / "a.txt");
  std::string text;
  in >> text;
  CHECK(text == "two");
  CHECK_FALSE(std::filesystem::exists(folder / "a.txt.partial"));
  check_says(error_of([] { sparsegrad::glue::write_file("/dev/full", "x"); }), "No space left on device");
  check_says(error_of([&] { sparsegrad::glue::write_file(folder / "none" / "a", "x"); }), "cannot be opened");
  check_says(error_of([&] { make_folder(folder / "a.txt" / "b"); }), "cannot make this folder");
}
