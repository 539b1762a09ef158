// The built program, called as its users call it.
#pragma once

#include <doctest/doctest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "files.hpp"
#include "support/tiny_bert.hpp"

namespace sparsegrad::finetune::test {

inline std::filesystem::path program(const std::string& name = "sparsegrad-glue") {
  const std::filesystem::path path =
      std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / name;
  REQUIRE_MESSAGE(std::filesystem::exists(path), path.string() << " is not built");
  return path;
}

struct Finished {
  int status = -1;
  std::string out;
  std::string err;
};

inline std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Runs a command of the shell, without the variable that names the data.
inline Finished run_command(const std::string& command, const std::string& before = "") {
  const std::filesystem::path folder = SPARSEGRAD_TEST_OUTPUT_DIR;
  const std::string line = before + "env -u SPARSEGRAD_GLUE_DIR " + command + " >'" +
                           (folder / "out.txt").string() + "' 2>'" + (folder / "err.txt").string() + "'";
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, content(folder / "out.txt"),
          content(folder / "err.txt")};
}

/// Runs the program with words separated by spaces. `before` is shell.
inline Finished run(const std::string& words, const std::string& before = "") {
  return run_command("'" + program().string() + "' " + words, before);
}

/// Runs the program for language models with words separated by spaces. `before` is shell.
inline Finished llm(const std::string& words, const std::string& before = "") {
  return run_command("'" + program("sparsegrad-llm").string() + "' " + words, before);
}

/// Runs the program with exactly these words. `variables` are put into its environment ("NAME=value").
inline Finished run_words(const std::vector<std::string>& words,
                          const std::vector<std::string>& variables = {}) {
  std::string quoted;
  for (const std::string& word : words) {
    quoted += " '";
    for (const char letter : word)
      quoted += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
    quoted += "'";
  }
  std::string before;
  for (const std::string& variable : variables)
    before += "export '" + variable + "';";
  return run(quoted, before);
}

/// Starts a program on words separated by spaces (no quotes), and does not wait for it.
inline pid_t start(const std::string& words, const std::string& name = "sparsegrad-glue") {
  std::vector<std::string> list{program(name).string()};
  std::istringstream in(words);
  for (std::string word; in >> word;)
    list.push_back(word);
  std::vector<char*> arguments;
  for (std::string& word : list)
    arguments.push_back(word.data());
  arguments.push_back(nullptr);
  unsetenv("SPARSEGRAD_GLUE_DIR");
  pid_t child = 0;
  REQUIRE(posix_spawn(&child, list[0].c_str(), nullptr, nullptr, arguments.data(), environ) == 0);
  return child;
}

/// Waits for a process that `start` started: its exit status, or 128 and the signal's number.
inline int wait_for(pid_t child) {
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// Whether it has ended; it is still to be waited for.
inline bool has_ended(pid_t child) {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == child;
}

inline nlohmann::json json_of(const std::filesystem::path& file) {
  return nlohmann::json::parse(content(file));
}

inline const std::filesystem::path& tiny() {
  static const std::filesystem::path path = make_tiny_bert(fresh_folder("tiny"));
  return path;
}

/// A RoBERTa with random weights and the vocabulary of the goldens.
inline std::filesystem::path make_tiny_roberta(const std::filesystem::path& path) {
  std::filesystem::create_directories(path);
  for (const char* name : {"vocab.json", "merges.txt"}) {
    std::filesystem::copy_file(
        std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "glue" / "small_bpe" / name, path / name,
        std::filesystem::copy_options::overwrite_existing);
  }
  ModelDirectory directory;
  directory.path = path;
  ModelConfig& config = directory.config;
  config.family = ModelFamily::roberta;
  config.pad_token_id = 1;
  config.type_vocab_size = 1;
  config.layer_norm_eps = 1e-5;
  config.vocab_size = static_cast<index_t>(json_of(path / "vocab.json").size());
  config.max_positions = 130;
  config.layers = 2;
  config.hidden = 32;
  config.heads = 4;
  config.intermediate = 64;
  directory.config_json = to_json(config);
  HostBackend::Context ctx(1);
  EncoderModel<float, HostBackend> model(ctx, config);
  model.initialize(11);
  for (Parameter<float>& p : model.parameters().all()) {
    if (p.is_bias_or_norm()) continue;
    for (index_t i = 0; i < p.weight.size(); ++i)
      p.weight.data[i] *= 5;
  }
  save_model(path, directory, model);
  return path;
}

inline std::string train_words(const std::filesystem::path& output, const std::string& more) {
  return "train --task cola --model " + tiny().string() + " --output " + output.string() +
         " --threads 1 --products blas --max-length 32 --train-limit 256 --dev-limit 64 " + more;
}

}  // namespace sparsegrad::finetune::test
