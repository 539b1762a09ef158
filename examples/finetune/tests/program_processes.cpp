// Runs of several processes under mpirun: the same steps as in one process, and what happens when one of them ends.
#include <signal.h>
#include <sys/stat.h>

#include <array>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "run_result.hpp"
#include "support/tiny_decoder.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;

/// Of Open MPI; MPICH knows nothing of these variables and needs none. Both leak memory at their end.
const char* const variables =
    "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
    "OMPI_MCA_btl_base_warn_component_unused=0 "
    "ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 ";

/// `words` for a program in so many processes under a launcher, or in this one where there is none to start.
std::string command(int processes, const std::string& words, const std::string& name = "sparsegrad-glue") {
  const std::string own = "'" + program(name).string() + "' " + words;
  if (processes == 0) return own;
  return variables + std::string(SPARSEGRAD_MPIRUN) + " -n " + std::to_string(processes) + " " + own;
}

Finished in_processes(int processes, const std::string& words, const std::string& name = "sparsegrad-glue") {
  return run_command(command(processes, words, name));
}

/// Two ranks with command lines of their own, which end within a minute.
Finished side_by_side(const std::string& first, const std::string& second) {
  return run_command(variables + std::string("timeout 60 ") + SPARSEGRAD_MPIRUN + " -n 1 " + first +
                     " : -n 1 " + second);
}

std::string glue_words(const fs::path& output, const std::string& more) {
  return "train --task cola --model " + tiny().string() + " --output " + output.string() +
         " --threads 1 --products blas --max-length 32 --train-limit 96 --dev-limit 64 --max-steps 5 "
         "--log-every 1 "
         "--eval-every 3 --learning-rate 1e-3 --quiet " +
         more;
}

/// A run in several processes that goes on in the background; it has its own files for what it prints.
class Background {
 public:
  Background(int processes, const std::string& words, const std::string& before = "")
      : folder_(fresh_folder("background")) {
    // Each rank leaves the number of its process.
    const std::string rank = "sh -c 'echo $$ >" + (folder_ / "rank.").string() +
                             "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}; exec \"$@\"' sh ";
    const std::string line = "exec env -u SPARSEGRAD_GLUE_DIR " + before + " " + variables +
                             SPARSEGRAD_MPIRUN + " -n " + std::to_string(processes) + " " + rank + "'" +
                             program().string() + "' " + words + " >" + (folder_ / "out").string() + " 2>" +
                             (folder_ / "err").string();
    std::string shell = "/bin/sh";
    std::string c = "-c";
    std::string text = line;
    std::array<char*, 4> arguments{shell.data(), c.data(), text.data(), nullptr};
    REQUIRE(posix_spawn(&launcher_, "/bin/sh", nullptr, nullptr, arguments.data(), environ) == 0);
  }

  void signal_rank(int rank, int number) const {
    const fs::path file = folder_ / ("rank." + std::to_string(rank));
    REQUIRE(kill(std::stoi(content(file)), number) == 0);
  }
  bool ended() const { return has_ended(launcher_); }
  /// Its status and what was printed, and the seconds until its end.
  std::pair<Finished, double> finish() const {
    const auto begin = Clock::now();
    while (!ended() && Clock::now() - begin < std::chrono::seconds(60))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (!ended()) kill(launcher_, SIGKILL);
    const int status = wait_for(launcher_);
    return {{status, content(folder_ / "out"), content(folder_ / "err")}, seconds};
  }

 private:
  fs::path folder_;
  pid_t launcher_ = 0;
};

/// A run that takes some seconds, with states on the way.
std::string long_words(const fs::path& output) {
  return glue_words(
      output,
      "--run-type sparse --preset best --phase1-steps 2 --width-side 8 --deterministic --batch-size 4 "
      "--accumulation 4 --checkpoint-every 5 --resume --epochs 100 --eval-every 40 --log-every 20 "
      "--max-steps 120");
}

/// Waits until the run in `output` has written a state, and one more.
void wait_for_state(const Background& run, const fs::path& output) {
  const fs::path before = output / "checkpoint" / "state.safetensors.previous";
  while (!fs::exists(before)) {
    REQUIRE_FALSE(run.ended());
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

/// What long_words gives in one process.
const Result& long_result() {
  static const Result result = [] {
    const fs::path output = fresh_folder("long");
    const Finished run = in_processes(0, long_words(output));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    return result_of(output);
  }();
  return result;
}

/// Goes on with the run in `output`, in another number of processes, to the bits of one process.
void check_goes_on(int processes, const fs::path& output) {
  const Finished run = in_processes(processes, long_words(output));
  REQUIRE_MESSAGE(run.status == 0, run.err);
  Result found = result_of(output);
  // The model as it was at an interrupt stays.
  std::erase_if(found.files, [](const std::string& name) { return name.starts_with("checkpoint/"); });
  check_same(found, long_result());
}

struct Kind {
  std::string name;
  std::string options;
};
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> list{
      {"sparse",
       "--run-type sparse --preset best --phase1-steps 2 --width-side 8 --refresh-every 2 --clip-norm 1"},
      {"paper", "--run-type sparse --preset paper --phase1-steps 2 --phase1-fixed-matrices"},
      {"ft", "--run-type ft --clip-norm 0.5 --weight-decay 0.1"},
      {"topk", "--run-type topk"},
      {"lora", "--run-type lora"},
      {"meprop", "--run-type meprop"},
      {"frozen", "--run-type frozen-mlp"}};
  return list;
}

void check_close(const Result& found, const Result& wanted, double epsilon) {
  REQUIRE(found.losses.size() == wanted.losses.size());
  for (std::size_t i = 0; i < wanted.losses.size(); ++i)
    CHECK(found.losses[i] == doctest::Approx(wanted.losses[i]).epsilon(epsilon));
  REQUIRE(found.evaluations.size() == wanted.evaluations.size());
  for (std::size_t i = 0; i < wanted.evaluations.size(); ++i)
    CHECK(found.evaluations[i]["loss"].get<double>() ==
          doctest::Approx(wanted.evaluations[i]["loss"].get<double>()).epsilon(epsilon));
  CHECK(found.files == wanted.files);
}

}  // namespace

TEST_CASE("with --deterministic any number of processes has the bits of one") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.name);
    const std::string options = kind.options + " --deterministic --batch-size 4 --accumulation 4";
    const fs::path one = fresh_folder("one");
    const Finished alone = in_processes(0, glue_words(one, options));
    REQUIRE_MESSAGE(alone.status == 0, alone.err);
    const Result wanted = result_of(one);
    REQUIRE(wanted.losses.size() == 5);
    const bool all = kind.name == "sparse";
    for (const int processes : all ? std::vector<int>{1, 2, 3, 4} : std::vector<int>{3}) {
      CAPTURE(processes);
      const fs::path output = fresh_folder("several");
      const Finished run = in_processes(processes, glue_words(output, options));
      REQUIRE_MESSAGE(run.status == 0, run.err);
      check_same(result_of(output), wanted);
    }
    if (!all) continue;
    // Four processes take a quarter of a batch each: the micro-batches of the others.
    const fs::path output = fresh_folder("quarters");
    const Finished run =
        in_processes(4, glue_words(output, kind.options + " --deterministic --batch-size 16"));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    check_same(result_of(output), wanted);
  }
}

TEST_CASE("without it they differ from one process by rounding") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.name);
    // Of fixed matrices each micro-batch's gradient is collected for itself: as many micro-batches there.
    const std::string batches =
        kind.name == "paper" ? " --batch-size 8 --accumulation 2" : " --batch-size 16";
    const fs::path one = fresh_folder("one");
    const std::string options = kind.options + batches + " --dropout 0";
    const Finished alone = in_processes(0, glue_words(one, options));
    REQUIRE_MESSAGE(alone.status == 0, alone.err);
    const fs::path output = fresh_folder("several");
    const Finished run = in_processes(2, glue_words(output, options));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    check_close(result_of(output), result_of(one), 2e-4);
  }
}

TEST_CASE("a language model trains in several processes, by tokens too") {
  const fs::path model = make_tiny_decoder(fresh_folder("llm_model"));
  const fs::path data = write_sums(fresh_folder("llm_data") / "sums.jsonl");
  const auto words = [&](const fs::path& output, const std::string& more) {
    return "train --model " + model.string() + " --data " + data.string() + " --output " + output.string() +
           " --threads 1 --products blas --max-length 64 --held-out 0.2 --max-steps 5 --epochs 10 "
           "--learning-rate 3e-3 --log-every 1 --quiet --matrices up,down,q,v --blocks 0,3 " +
           more;
  };
  for (const std::string options :
       {"--run-type sparse --width-side 8 --phase1-steps 2 --batch-size 4 --accumulation 4",
        "--run-type lora --batch-size 16 --accumulation 1 --tokens-per-batch 128"}) {
    for (const bool deterministic : {true, false}) {
      CAPTURE(options);
      CAPTURE(deterministic);
      const std::string all = options + (deterministic ? " --deterministic" : "");
      const fs::path one = fresh_folder("llm_one");
      const Finished alone = in_processes(0, words(one, all), "sparsegrad-llm");
      REQUIRE_MESSAGE(alone.status == 0, alone.err);
      const fs::path output = fresh_folder("llm_several");
      // One of three has no micro-batch in the second turn of four.
      const Finished run = in_processes(3, words(output, all), "sparsegrad-llm");
      REQUIRE_MESSAGE(run.status == 0, run.err);
      if (deterministic) {
        check_same(result_of(output), result_of(one));
      } else {
        check_close(result_of(output), result_of(one), 2e-4);
      }
    }
  }
}

TEST_CASE("gradients may go over the wire in 16 bits") {
  std::map<std::string, Result> results;
  std::map<std::string, nlohmann::json> logs;
  for (const std::string wire : {"float", "bf16"}) {
    const fs::path output = fresh_folder("wire_" + wire);
    const Finished run =
        in_processes(2, glue_words(output, "--run-type ft --batch-size 16 --dropout 0 --wire " + wire));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    results[wire] = result_of(output);
    logs[wire] = json_of(output / "run.json");
  }
  CHECK(logs["bf16"]["options"]["wire"] == "bf16");
  check_close(results["bf16"], results["float"], 1e-2);
  // The losses before and after the first sums.
  CHECK(results["bf16"].losses[0] == results["float"].losses[0]);
  CHECK(results["bf16"].losses[1] != results["float"].losses[1]);
  // Of two ranks each sends half of its numbers, and the sums of the other half: two bytes less a number.
  const auto numbers = logs["float"]["trained"]["dense_parameters"].get<double>();
  const auto sent = [&](const char* wire) { return logs[wire]["processes"]["sent_bytes"].get<double>(); };
  CHECK(sent("float") - sent("bf16") == doctest::Approx(5 * 2 * numbers).epsilon(0.01));
}

TEST_CASE("a rank that is killed is named at once, and the run goes on from its last state") {
  const fs::path output = fresh_folder("killed");
  const Background run(2, long_words(output));
  wait_for_state(run, output);
  run.signal_rank(1, SIGKILL);
  const auto [finished, seconds] = run.finish();
  CHECK(finished.status != 0);
  CHECK(seconds < 30);
  // MPICH's launcher ends the others before they can say it, and tells so.
  if (finished.out.find("BAD TERMINATION") == std::string::npos) check_says(finished.err, "rank 1");
  check_goes_on(3, output);
}

TEST_CASE("a rank that hangs is named after the timeout, and the others end") {
  const fs::path output = fresh_folder("hangs");
  const Background run(3, long_words(output) + " --process-timeout 5");
  wait_for_state(run, output);
  run.signal_rank(1, SIGSTOP);
  const auto [finished, seconds] = run.finish();
  CHECK(finished.status != 0);
  CHECK(seconds < 40);
  check_says(finished.err, "rank 1 has not come for 5.000");
  check_goes_on(2, output);
}

TEST_CASE("a full disk of the rank that writes ends all, who say so") {
  const fs::path output = fresh_folder("full");
  const fs::path noted = output.parent_path() / "fault.txt";
  const Background run(2, long_words(output),
                       std::string("LD_PRELOAD=") + SPARSEGRAD_FAULTY_FILES +
                           " FAULTS_IN=" + output.string() + " FAULTS_LOG=" + noted.string() +
                           " FAULTS_KIND=" + std::to_string(ENOSPC) + " FAULTS_AT=60 FAULTS_LASTING=1");
  const auto [finished, seconds] = run.finish();
  CHECK(finished.status != 0);
  CHECK(seconds < 30);
  check_says(finished.err, "No space left on device");
  check_says(finished.err, "rank 0 has ended: ");
  check_goes_on(1, output);
}

TEST_CASE("NaN in one rank's loss is told by its number") {
  const fs::path output = fresh_folder("nan");
  const Finished run =
      in_processes(2, glue_words(output, "--run-type ft --batch-size 8 --learning-rate 1e30"));
  CHECK(run.status != 0);
  check_says(run.err, "the loss of rank ");
  check_says(json_of(output / "run.json")["error"], "expected a finite number");
}

TEST_CASE("a signal to one rank ends all with one state, and the run goes on from it") {
  // The launcher sends ranks SIGTERM after Ctrl-C, Open MPI a second later, when so short a run has ended.
  const fs::path output = fresh_folder("interrupted");
  const Background run(2, long_words(output));
  wait_for_state(run, output);
  run.signal_rank(1, SIGTERM);
  const auto [finished, seconds] = run.finish();
  CHECK(finished.status != 0);
  CHECK(seconds < 30);
  check_says(finished.err, "interrupted after step ");
  check_says(finished.err, "--resume goes on from there");
  CHECK(fs::exists(output / "checkpoint" / "model.safetensors"));  // written at an interrupt alone
  check_goes_on(1, output);
}

TEST_CASE("ranks of another build, other options or other data are refused, with the difference") {
  const fs::path output = fresh_folder("differ");
  const std::string own = "'" + program().string() + "' ";
  const std::string words = glue_words(output, "--run-type ft --batch-size 8 ");
  const Finished options = side_by_side(own + words, own + words + "--learning-rate 2e-3");
  CHECK(options.status != 0);
  check_says(options.err, "rank 1: --learning-rate is 0.002, rank 0 has 0.001; ");
  check_says(options.err, "; start all ranks with the same options");

  const Finished wires = side_by_side(own + words + "--wire bf16", own + words);
  CHECK(wires.status != 0);
  check_says(wires.err, "rank 1: --wire is nothing, rank 0 has \"bf16\"; ");

  const fs::path other = fresh_folder("other_build") / "sparsegrad-glue";
  fs::copy_file(program(), other);
  std::ofstream(other, std::ios::app | std::ios::binary) << "x";
  const Finished build = side_by_side(own + words, "'" + other.string() + "' " + words);
  CHECK(build.status != 0);
  check_says(build.err, "rank 1: program/build is ");

  std::array<fs::path, 2> data{fresh_folder("data_a"), fresh_folder("data_b")};
  for (std::size_t i = 0; i < 2; ++i) {
    std::string rows;
    for (std::size_t row = 0; row < 32; ++row)
      rows += "x\t" + std::to_string((row + i) % 2) + "\t\tthe cat sat\n";
    for (const char* split : {"train.tsv", "dev.tsv"})
      write_file(data[i] / "CoLA" / split, rows);
  }
  const auto with_data = [&](std::size_t i) {
    return "env SPARSEGRAD_GLUE_DIR=" + data[i].string() + " " + own + words;
  };
  const Finished examples = side_by_side(with_data(0), with_data(1));
  CHECK(examples.status != 0);
  check_says(examples.err, "rank 1: examples_hash/");

  CHECK_FALSE(fs::exists(output / "model"));
}

TEST_CASE("a rank that does not come to the run ends the others, who say why") {
  const fs::path output = fresh_folder("not_started");
  const std::string own = "'" + program().string() + "' ";
  const std::string words = own + glue_words(output, "--run-type ft --batch-size 8 ");

  const Finished dropout = side_by_side(words, words + "--dropout 7");
  CHECK(dropout.status != 0);
  check_says(dropout.err, "sparsegrad-glue, rank 0: rank 1 has ended: --dropout is 7, expected ");
  check_says(dropout.err, "sparsegrad-glue, rank 1: --dropout is 7, expected ");

  const Finished help = side_by_side(words, own + "train --help");
  CHECK(help.status != 0);
  check_says(help.err,
             "sparsegrad-glue, rank 0: rank 1 has ended: it has told what --help or --version asks");
  check_says(help.out, "--batch-size");
  const Finished version = side_by_side(own + "--version", words);
  CHECK(version.status != 0);
  check_says(version.err, "sparsegrad-glue, rank 1: rank 0 has ended: it has told what --help or --version");

  const Finished word = side_by_side(words, own + "train --bogus 1");
  CHECK(word.status != 0);
  check_says(word.err, "sparsegrad-glue, rank 1: --model is required");
  check_says(word.err, "sparsegrad-glue, rank 0: rank 1 has ended: --model is required");

  // One that hangs before: it reads a file that never ends.
  const fs::path endless = output.parent_path() / "endless";
  fs::remove(endless);
  REQUIRE(mkfifo(endless.c_str(), 0600) == 0);
  const Finished hangs =
      side_by_side(words + "--process-timeout 1.5", words + "--options " + endless.string());
  CHECK(hangs.status != 0);
  check_says(hangs.err, "rank 0: rank 1 has not come to the start for 1.5 s (--process-timeout)");
  CHECK(fs::is_empty(output));
}

TEST_CASE("what all ranks end with before a run is told once") {
  const auto times = [](const std::string& text, const std::string& part) {
    int count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
      ++count;
    return count;
  };
  const Finished version = in_processes(3, "--version");
  CHECK(version.status == 0);
  CHECK(version.out == run("--version").out);
  for (const std::string name : {"sparsegrad-glue", "sparsegrad-llm"}) {
    const Finished word = in_processes(3, "train --bogus 1", name);
    CHECK(word.status != 0);
    CHECK_MESSAGE(times(word.err, name + ", all 3 ranks: ") == 1, word.err);
    CHECK_MESSAGE(times(word.err, "--model is required") == 1, word.err);
  }
  const std::string words = glue_words(fresh_folder("never"), "--process-timeout ");
  for (const std::string seconds : {"1e16", "0", "-1", "nan"}) {
    const Finished run = in_processes(2, words + seconds);
    CHECK(run.status != 0);
    CHECK_MESSAGE(times(run.err, "sparsegrad-glue, all 2 ranks: --process-timeout is ") == 1, run.err);
    CHECK_MESSAGE(times(run.err, ", expected a number of seconds from 0.001 to 1e9\n") == 1, run.err);
  }
}

TEST_CASE("what runs in one process says so, and so does another MPI's launcher") {
  const Finished evaluate =
      in_processes(2, "evaluate --task cola --model " + tiny().string() + " --threads 1 --max-length 32");
  CHECK(evaluate.status != 0);
  check_says(evaluate.err, "sparsegrad-glue, all 2 ranks: evaluate runs in one process, 2 were started");
  const Finished foreign = run_command("env PMI_SIZE=3 PMI_RANK=1 " + command(0, "--version"));
  CHECK(foreign.status == 1);
  check_says(
      foreign.err,
      "sparsegrad-glue, rank 1: a launcher has started 3 processes, of which this program's MPI sees 1");
}
