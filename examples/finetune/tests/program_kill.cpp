// Runs that are killed at any moment and go on: the same bits as a run that was left alone.
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>

#include "run_result.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;

/// Kills of each kind of run; SPARSEGRAD_KILLS, where it is set, is their number in all (tests/faults/run.sh).
int kills_each() {
  const char* all = std::getenv("SPARSEGRAD_KILLS");
  return all == nullptr ? 4 : std::max(1, (std::atoi(all) + 4) / 5);
}

std::string words_of(const fs::path& output, const std::string& more) {
  return "train --task cola --model " + tiny().string() + " --output " + output.string() +
         " --products blas --max-length 32 --train-limit 256 --dev-limit 64 --batch-size 8 --epochs 2 "
         "--eval-every 9 "
         "--log-every 1 "
         "--learning-rate 1e-3 --checkpoint-every 6 --quiet " +
         more;
}

}  // namespace

TEST_CASE("a run that is killed at random times and resumed ends with the bits of one that was not") {
  std::mt19937 random(20);
  for (const char* options :
       {"--threads 1 --run-type sparse --preset best --phase1-steps 2 --refresh-every 10 --width-side 8",
        "--threads 2 --run-type sparse --preset paper --phase1-steps 2",
        "--threads 1 --deterministic --run-type lora", "--threads 1 --run-type ft",
        "--threads 2 --dtype bf16 --run-type sparse --preset best --phase1-steps 2 --width-side 8"}) {
    CAPTURE(options);
    const fs::path whole = fresh_folder("whole");
    const auto begin = Clock::now();
    REQUIRE(wait_for(start(words_of(whole, options))) == 0);
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    const Result wanted = result_of(whole);
    REQUIRE(wanted.losses.size() == 64);

    const fs::path killed = fresh_folder("killed");
    const std::string words = words_of(killed, std::string(options) + " --resume");
    int kills = 0;
    for (int attempt = 0; kills < kills_each() && attempt < 5 * kills_each(); ++attempt) {
      // Many kills are of many runs.
      if (kills > 0 && kills % 4 == 0) {
        REQUIRE(wait_for(start(words)) == 0);
        check_same(result_of(killed), wanted);
        fs::remove_all(killed);
      }
      const pid_t child = start(words);
      const double wait = std::uniform_real_distribution<double>(0.05, 0.6)(random) * seconds;
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
      kill(child, SIGKILL);
      if (wait_for(child) != 128 + SIGKILL) {  // faster than the run that was timed: anew, and sooner
        fs::remove_all(killed);
        seconds /= 2;
        continue;
      }
      ++kills;
      // A disk that loses the end of the last file: the state before it serves.
      const fs::path state = killed / "checkpoint" / "state.safetensors";
      if (kills % 4 == 3 && fs::exists(state) && fs::exists(state.string() + ".previous"))
        fs::resize_file(state, fs::file_size(state) / 2);
    }
    CHECK(kills > 0);
    MESSAGE(kills << " kills: " << std::string(options));
    REQUIRE(wait_for(start(words)) == 0);
    check_same(result_of(killed), wanted);
    CHECK_FALSE(fs::exists(killed / "checkpoint"));
  }
}

TEST_CASE("a torn state is passed over, and does not replace the good one before it") {
  const std::string options = "--threads 1 --run-type ft";
  const fs::path whole = fresh_folder("torn_whole");
  REQUIRE(wait_for(start(words_of(whole, options))) == 0);
  const fs::path output = fresh_folder("torn");
  const fs::path state = output / "checkpoint" / "state.safetensors";
  const fs::path before = state.string() + ".previous";
  const std::string words = words_of(output, options);
  while (!fs::exists(before)) {  // a run that ends before it is seen with two states is done anew
    fs::remove_all(output);
    const pid_t child = start(words);
    while (!fs::exists(before) && !has_ended(child))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(child, SIGKILL);
    wait_for(child);
  }
  if (!fs::exists(state)) fs::copy_file(before, state);  // killed between its two renames
  fs::resize_file(state, 100);
  const Finished finished = run(words + " --resume");
  CHECK_MESSAGE(finished.status == 0, finished.err);
  check_says(finished.err, "going on from the state before it");
  check_same(result_of(output), result_of(whole));
}

TEST_CASE("a finished run is left alone; other options than the state's are refused") {
  const std::string options = "--threads 1 --run-type ft --max-steps 12";
  const fs::path output = fresh_folder("finished");
  const std::string words = words_of(output, options);
  REQUIRE(wait_for(start(words)) == 0);
  const std::string log = content(output / "run.json");
  const auto written = fs::last_write_time(output / "model" / "model.safetensors");
  const Finished again = run(words + " --resume");
  CHECK(again.status == 0);
  check_says(again.out, "finished already");
  CHECK(content(output / "run.json") == log);
  CHECK(fs::last_write_time(output / "model" / "model.safetensors") == written);
  const Finished other = run(words + " --resume --learning-rate 2e-3");
  CHECK(other.status == 1);
  check_says(other.err,
             "a run with other options is finished there: --learning-rate is 0.002, the run had 0.001");
  CHECK(content(output / "run.json") == log);
  // Nor is it replaced without a word.
  const Finished lost = run(words);
  CHECK(lost.status == 1);
  check_says(lost.err,
             "holds the model of another run; --resume goes on with that run, --overwrite replaces it");
  CHECK(content(output / "run.json") == log);
  CHECK(fs::last_write_time(output / "model" / "model.safetensors") == written);
  nlohmann::json killed = json_of(output / "run.json");
  killed["finished"] = false;  // as a run that died before its first checkpoint leaves it
  write_file(output / "run.json", killed.dump());
  const Finished another = run(words + " --resume --learning-rate 2e-3");
  CHECK(another.status == 1);
  check_says(another.err, "holds the model of a run with other options: --learning-rate is 0.002");
  CHECK(fs::last_write_time(output / "model" / "model.safetensors") == written);
  CHECK(run(words + " --resume").status == 0);
  CHECK(run(words + " --overwrite --learning-rate 2e-3").status == 0);
  CHECK(json_of(output / "run.json")["options"]["learning_rate"] == 2e-3);

  const fs::path ended = fresh_folder("ended");
  const std::string longer = words_of(ended, "--threads 1 --run-type ft --max-steps 100000 --epochs 100000");
  const pid_t child = start(longer);
  while (!fs::exists(ended / "checkpoint" / "state.safetensors"))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  kill(child, SIGTERM);
  CHECK(wait_for(child) == 130);
  const Finished refused = run(longer + " --resume --learning-rate 2e-3");
  CHECK(refused.status == 1);
  check_says(refused.err, "--learning-rate is 0.002, the run had 0.001");
  CHECK(fs::exists(ended / "checkpoint" / "state.safetensors"));
}

TEST_CASE("a run does not go on with other data of the same size, nor with another model of it") {
  const fs::path output = fresh_folder("other_data");
  const fs::path data = fresh_folder("other_data_files");
  const auto rows = [](int label) {
    std::string text;
    for (int i = 0; i < 32; ++i)
      text += "x\t" + std::to_string((i + label) % 2) + "\t\tthe cat sat\n";
    return text;
  };
  write_file(data / "CoLA" / "train.tsv", rows(0));
  write_file(data / "CoLA" / "dev.tsv", rows(0));
  const fs::path model = fresh_folder("other_data_model");
  fs::copy(tiny(), model, fs::copy_options::overwrite_existing | fs::copy_options::recursive);
  const std::string words = words_of(
      output, "--model " + model.string() +
                  " --threads 1 --run-type ft --max-steps 1000 --epochs 1000 --data " + data.string());
  const pid_t child = start(words);
  while (!fs::exists(output / "checkpoint" / "state.safetensors") && !has_ended(child))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  kill(child, SIGTERM);
  CHECK(wait_for(child) == 130);
  for (const char* split : {"train", "dev"}) {
    const fs::path file = data / "CoLA" / (std::string(split) + ".tsv");
    write_file(file, rows(1));
    const Finished refused = run(words + " --resume");
    CHECK(refused.status == 1);
    check_says(refused.err, std::string("examples_hash/") + split);
    check_says(refused.err, "resume with the same options and data");
    write_file(file, rows(0));
  }
  nlohmann::json config = json_of(model / "config.json");
  config["layer_norm_eps"] = 1e-5;
  write_file(model / "config.json", config.dump());
  const Finished refused = run(words + " --resume");
  CHECK(refused.status == 1);
  check_says(refused.err, "model/layer_norm_eps");
}
