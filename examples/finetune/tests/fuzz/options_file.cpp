// libFuzzer target: any bytes as the file of --options are options of a run or are refused with exit status 1 or 2, as is
// a command line made of the input's other section.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "programs/commands.hpp"
#include "programs/processes.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;

namespace sparsegrad::finetune {

namespace {

// In place of the commands: what they do first.
int check_options(const TrainOptions& options) {
  options.check();
  options.check_device();
  (void)to_json(options).dump();
  return 0;
}

}  // namespace

int run_train(const TrainOptions& options, Processes&) {
  return check_options(options);
}
int run_evaluate(const EvaluateCommand& command) {
  return check_options(command.common);
}
int run_inspect(const InspectCommand& command) {
  return check_options(command.common);
}

int run_in_processes(const char*, const std::function<int(Processes&)>& run) {
  Processes alone;
  return run(alone);
}
void Processes::require_one(const std::string&) const {}

}  // namespace sparsegrad::finetune

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::MemoryFile file;
  const auto parts = fuzz::sections(fuzz::text_of(data, size), 2);
  file.set(parts[0]);
  const std::string options = file.path().string();
  std::vector<std::string> words{"sparsegrad-glue", "train",    "--quiet", "--model",
                                 "model",           "--output", "output"};
  if (!parts[0].empty()) words.insert(words.end(), {"--options", options});
  for (std::string_view rest = parts[1]; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    words.emplace_back(rest.substr(0, std::min(end, rest.find('\0'))));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  std::vector<char*> arguments;
  for (std::string& word : words)
    arguments.push_back(word.data());
  const fuzz::MemoryBound bound(size, 1000, 4 << 20);
  const int status = sparsegrad::finetune::run_program(static_cast<int>(arguments.size()), arguments.data());
  fuzz::require(status >= 0 && status <= 2, "the exit status is " + std::to_string(status));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_json);
}
