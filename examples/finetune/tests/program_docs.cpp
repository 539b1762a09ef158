// docs/finetune.md names every option and every field of the log, docs/llm.md with it those of sparsegrad-llm.
#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "program.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const std::string& page() {
  static const std::string text = content(fs::path(SPARSEGRAD_TEST_DIR) / "../../../docs/finetune.md");
  return text;
}

/// Whether a page has the word as code, alone or with a value behind it.
bool named(const std::string& word, const std::string& text = page()) {
  return text.find("`" + word + "`") != std::string::npos || text.find("`" + word + " ") != std::string::npos;
}

/// The options that a help lists.
std::set<std::string> options_of(const std::string& help) {
  std::istringstream lines(help);
  // An option's line begins with its names: "  --model,--model-path TEXT REQUIRED".
  const std::regex declared(R"(^\s{1,4}(-h,)?(--[a-z0-9-]+)(,--[a-z0-9-]+)*)");
  const std::regex option(R"(--[a-z0-9][a-z0-9-]*)");
  std::set<std::string> options;
  for (std::string line; std::getline(lines, line);) {
    std::smatch found;
    if (!std::regex_search(line, found, declared)) continue;
    const std::string names = found.str();
    for (auto at = std::sregex_iterator(names.begin(), names.end(), option); at != std::sregex_iterator();
         ++at)
      options.insert(at->str());
  }
  return options;
}

/// Names of an object's fields and of those inside it. Objects whose names are values (none) would not belong here.
void collect_fields(const nlohmann::json& json, std::set<std::string>& names) {
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      names.insert(key);
      collect_fields(value, names);
    }
  } else if (json.is_array()) {
    for (const nlohmann::json& entry : json)
      collect_fields(entry, names);
  }
}

}  // namespace

TEST_CASE("every option of every command is named") {
  for (const char* command : {"train", "evaluate", "inspect"}) {
    const Finished help = run(std::string(command) + " --help");
    REQUIRE(help.status == 0);
    const std::set<std::string> options = options_of(help.out);
    CHECK(options.size() >= 15);
    for (const std::string& name : options)
      CHECK_MESSAGE(named(name), command << " " << name << " is not in docs/finetune.md");
  }
}

TEST_CASE("every option of sparsegrad-llm is named, and its help speaks of language models") {
  const std::string own = content(fs::path(SPARSEGRAD_TEST_DIR) / "../../../docs/llm.md");
  std::map<std::string, std::set<std::string>> options;
  for (const char* command : {"train", "evaluate", "generate", "export", "inspect"}) {
    CAPTURE(command);
    const Finished help = llm(std::string(command) + " --help");
    REQUIRE(help.status == 0);
    options[command] = options_of(help.out);
    CHECK(options[command].size() >= 8);
    for (const std::string& name : options[command])
      CHECK_MESSAGE((named(name, own) || named(name)), command << " " << name << " is in no page");
    const std::regex of_encoders(
        R"(\bdev\b(?!-)|LayerNorm|BERT|GLUE|MLP|1\.2 %|new head|dropout|over all their examples|Replication)");
    const std::string text = std::regex_replace(help.out, std::regex(R"(\s+)"), " ");
    std::smatch found;
    CHECK_MESSAGE(!std::regex_search(text, found, of_encoders), "the help has \"" << found.str() << "\"");
  }
  for (const char* name : {"--dtype", "--products", "--device", "--deterministic"})
    CHECK(!options["export"].contains(name));  // which has no steps
  for (const std::string& name : options["inspect"])
    CHECK_MESSAGE(options["train"].contains(name), name << " is no option of train");
  for (const char* name : {"--data", "--train-limit", "--seed", "--learning-rate", "--output", "--resume"})
    CHECK_MESSAGE(!options["inspect"].contains(name), name << " changes nothing that inspect shows");
  const std::string text = llm("train --help").out;
  check_says(text, "0.2 % of the entries");
  check_says(text, "--share 0.002");
}

TEST_CASE("every field of run.json is named, and every exit status") {
  const fs::path output = fresh_folder("fields");
  std::set<std::string> fields;
  for (const char* words : {"--protocol reference --run-type sparse --phase1-steps 2 --epochs 1",
                            "--run-type sparse --refresh-every 2 --held-out 0.2", "--run-type lora",
                            "--run-type meprop", "--run-type ft --learning-rate 1e30"}) {
    CAPTURE(words);
    const bool fails = std::string(words).find("1e30") != std::string::npos;
    const Finished train = run(train_words(
        output, std::string("--max-steps 4 --log-every 1 --no-save --overwrite --quiet ") + words));
    CHECK(train.status == (fails ? 1 : 0));
    collect_fields(json_of(output / "run.json"), fields);
  }
  CHECK(fields.contains("error"));
  CHECK(fields.contains("frozen_layer_norm"));
  for (const std::string& name : fields) {
    std::string option = "--" + name;
    std::replace(option.begin(), option.end(), '_', '-');
    CHECK_MESSAGE((named(name) || named(option)), "run.json's " << name << " is not in docs/finetune.md");
  }
  for (const char* status : {"| 0 |", "| 1 |", "| 2 |", "| 130 |"})
    CHECK_MESSAGE(page().find(status) != std::string::npos, "no row for exit status " << status);
}
