// The program on a machine where things fail: each write, the disk, the reader of its output.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "run_result.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

std::vector<std::string> words_of(const fs::path& output) {
  std::vector<std::string> words{"train",         "--task",   "cola",         "--model",
                                 tiny().string(), "--output", output.string()};
  for (const char* word :
       {"--max-length",   "32",      "--train-limit",   "64",     "--dev-limit",        "16",
        "--batch-size",   "8",       "--epochs",        "2",      "--eval-every",       "5",
        "--log-every",    "3",       "--learning-rate", "1e-3",   "--checkpoint-every", "4",
        "--threads",      "1",       "--run-type",      "sparse", "--preset",           "best",
        "--phase1-steps", "2",       "--width-side",    "8",      "--refresh-every",    "7",
        "--resume",       "--quiet", "--products",      "blas"})
    words.emplace_back(word);
  return words;
}

/// A fault of `kind` at the `at`-th call that writes below `output`.
std::vector<std::string> fault(const fs::path& output, const std::string& kind, int at, bool lasting) {
  return {std::string("LD_PRELOAD=") + SPARSEGRAD_FAULTY_FILES,
          "ASAN_OPTIONS=verify_asan_link_order=0",
          "FAULTS_IN=" + output.string(),
          "FAULTS_LOG=" + (output.parent_path() / "fault.txt").string(),
          "FAULTS_KIND=" + kind,
          "FAULTS_AT=" + std::to_string(at),
          std::string("FAULTS_LASTING=") + (lasting ? "1" : "0")};
}

/// Steps from one faulty call to the next: each of them in a run by hand (tests/faults/run.sh), a few drawn ones otherwise.
int next_step(std::mt19937& random, int every) {
  if (std::getenv("SPARSEGRAD_FAULTS") != nullptr) return every;
  return std::uniform_int_distribution<int>(1, 270)(random);
}

}  // namespace

TEST_CASE("a fault in any call that writes is told, and the run goes on from it to the same bits") {
  const fs::path whole = fresh_folder("whole");
  REQUIRE(run_words(words_of(whole)).status == 0);
  const Result wanted = result_of(whole);
  REQUIRE(wanted.losses.size() == 6);

  struct Kind {
    std::string name;
    std::string kind;
    bool lasting;
    const char* told;  ///< what the error says; null where the program gets over it
    int every = 4;     ///< each so many calls, by hand
  };
  const std::vector<Kind> kinds{
      {"no space, once", std::to_string(ENOSPC), false, "No space left on device", 1},
      {"no space from there on", std::to_string(ENOSPC), true, "No space left on device"},
      {"disk error, once", std::to_string(EIO), false, "Input/output error", 1},
      {"disk error from there on", std::to_string(EIO), true, "Input/output error"},
      {"read-only from there on", std::to_string(EROFS), true, "Read-only file system"},
      {"quota from there on", std::to_string(EDQUOT), true, "Disk quota exceeded"},
      {"interrupted once", std::to_string(EINTR), false, nullptr},
      {"written in part", "short", true, nullptr},
      {"SIGKILL before the call", "kill", false, nullptr},
      {"SIGKILL in the call", "tear", false, nullptr, 1},
      {"SIGTERM", "-" + std::to_string(SIGTERM), false, nullptr},
      {"SIGINT", "-" + std::to_string(SIGINT), false, nullptr},
      {"SIGHUP", "-" + std::to_string(SIGHUP), false, nullptr},
  };
  const fs::path output = fresh_folder("faulty");
  const fs::path noted = output.parent_path() / "fault.txt";
  std::mt19937 random(16);
  for (const Kind& kind : kinds) {
    int tried = 0;
    std::map<int, int> by_status;
    std::map<std::string, int> by_call;
    for (int at = next_step(random, 1);; at += next_step(random, kind.every)) {
      CAPTURE(kind.name);
      CAPTURE(at);
      fs::remove_all(output);
      fs::remove(noted);
      const Finished faulty = run_words(words_of(output), fault(output, kind.kind, at, kind.lasting));
      CAPTURE(faulty.err);
      if (!fs::exists(noted)) {
        // No call is left to fail.
        CHECK(faulty.status == 0);
        break;
      }
      const std::string call = content(noted).substr(0, content(noted).find('\n'));
      CAPTURE(call);
      ++tried;
      ++by_status[faulty.status];
      ++by_call[call];
      if (kind.told != nullptr) {
        // What may fail without harm is passed over: the run is whole then.
        CHECK((faulty.status == 0 || faulty.status == 1));
        if (faulty.status == 1) {
          check_says(faulty.err, kind.told);
          check_says(faulty.err, output.string());
        }
      } else if (kind.kind == "kill" || kind.kind == "tear") {
        CHECK(faulty.status == 128 + SIGKILL);
      } else if (kind.kind.front() == '-') {
        CHECK((faulty.status == 0 || faulty.status == 130));
      } else {
        CHECK_MESSAGE(faulty.status == 0, faulty.err);
      }
      if (faulty.status != 0) {
        const Finished resumed = run_words(words_of(output));
        REQUIRE_MESSAGE(resumed.status == 0, resumed.err);
      }
      Result found = result_of(output);
      // A file that could not be removed is in nobody's way, and the next run in the folder removes it.
      if (call == "remove" || call == "unlink") found.files = wanted.files;
      // The model as it was at the interrupt stays.
      if (kind.kind.front() == '-') {
        std::erase_if(found.files, [](const std::string& name) {
          return name.starts_with("checkpoint/") && name.find("state") == std::string::npos;
        });
      }
      check_same(found, wanted);
    }
    std::string text;
    for (const auto& [status, count] : by_status)
      text += (text.empty() ? "status " : ", ") + std::to_string(status) + ": " + std::to_string(count);
    std::string at_calls;
    for (const auto& [call, count] : by_call)
      at_calls += " " + call + " " + std::to_string(count);
    MESSAGE(kind.name << ": " << tried << " faults; " << text << ";" << at_calls);
  }
}

TEST_CASE("a disk without room for a run's files is told before the run begins") {
  const fs::path output = fresh_folder("room");
  const auto with = [&](const std::string& bytes, const std::string& option = "--quiet") {
    std::vector<std::string> words = words_of(output);
    words.push_back(option);
    return run_words(words, {std::string("LD_PRELOAD=") + SPARSEGRAD_FAULTY_FILES,
                             "ASAN_OPTIONS=verify_asan_link_order=0", "FAULTS_FREE=" + bytes});
  };
  const Finished refused = with("1000000");
  CHECK(refused.status == 1);
  check_says(refused.err, "this run writes up to 1.6 MiB there (models 0.3, checkpoints 1.3)");
  check_says(refused.err, "1.0 MiB are free");
  CHECK(!fs::exists(output / "run.json"));
  CHECK(with("1000000", "--ignore-memory").status == 0);
  fs::remove_all(output);
  CHECK(with("10000000").status == 0);
}

TEST_CASE("a limit on files is told, and no half of a file is left") {
  const fs::path output = fresh_folder("limit");
  std::string words;
  for (const std::string& word : words_of(output))
    words += " '" + word + "'";
  for (const char* limit : {"ulimit -f 0;", "ulimit -f 1;", "ulimit -f 40;"}) {
    const Finished limited = run(words, limit);
    CHECK(limited.status == 1);
    // Of ulimit -f 0 the shell's own files for stdout and stderr are empty, too.
    if (std::string(limit) != "ulimit -f 0;") check_says(limited.err, "File too large");
    for (const auto& entry : fs::recursive_directory_iterator(output))
      CHECK(entry.path().string().find(".tmp-") == std::string::npos);
  }
  CHECK(run(words).status == 0);
}

TEST_CASE("standard output that takes nothing ends no run, and is told") {
  const fs::path output = fresh_folder("stdout");
  const std::string train =
      "'" + program().string() + "' " + train_words(output, "--max-steps 4 --run-type ft");
  const std::string evaluate = "'" + program().string() +
                               "' evaluate --task cola --max-length 32 --dev-limit 16 --model '" +
                               (output / "model").string() + "'";
  const auto ended = [](const std::string& command, const std::string& where) {
    // The reader of the pipe is gone before the first line.
    const std::string told = "; echo status \\$? >&2";
    const std::string line =
        where == "|" ? "{ sleep 0.1; " + command + told + "; } | true" : command + " " + where + told;
    return run_command("bash -c \"" + line + "\"").err;
  };
  for (const auto& taken : {std::pair{">/dev/full", "No space left on device"},
                            std::pair{">&-", "Bad file descriptor"}, std::pair{"|", "Broken pipe"}}) {
    const std::string where = taken.first;
    const std::string reason = taken.second;
    CAPTURE(where);
    fs::remove_all(output);
    for (const std::string& command : {train, evaluate}) {
      const std::string said = ended(command, where);
      check_says(said, "status 1");
      check_says(said, "standard output: " + reason);
    }
    CHECK(json_of(output / "run.json")["finished"] == true);
  }
  // With every stream closed, what is printed does not get into a file.
  fs::remove_all(output);
  check_says(ended(train, "<&- >&- 2>&-"), "status 1");
  CHECK(json_of(output / "run.json")["finished"] == true);
  CHECK(content(output / "run.lock").empty());
  check_says(ended(train + " --resume --quiet", "<&- 2>&-"), "status 0");
}
