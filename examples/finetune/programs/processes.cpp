#include "programs/processes.hpp"

#include <array>
#include <cstddef>
#include <fstream>

#include <fmt/format.h>

#include "training/output/console.hpp"
#include "training/output/output_folder.hpp"
#include "training/products.hpp"
#include "training/state_arrays.hpp"

namespace sparsegrad::finetune {

namespace {

/// Of the program's own file: another build has another.
std::string build_hash() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  Hash hash;
  std::array<char, 1 << 16> block{};
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0)
    hash.add(block.data(), static_cast<std::size_t>(file.gcount()));
  return fmt::format("{:016x}", hash.value());
}

/// All that decides what a process does, and with which others it speaks when.
nlohmann::json compared(const TrainOptions& o) {
  nlohmann::json json = to_json(o);
  json["resume"] = o.resume;
  json["evaluates_first"] = o.evaluates_first;
  json["process_timeout"] = o.process_timeout;
  json["choose_dtype"] = o.choose_dtype;
  return json;
}

}  // namespace

void Processes::require_one(const std::string& what) const {
  if (size() == 1) return;
  throw ValueError(
      fmt::format("{} runs in one process, {} were started; start it without the launcher", what, size()));
}

int run_in_processes(const char* program, const std::function<int(Processes&)>& run) {
  prepare_console();
  std::unique_ptr<Processes> processes;
  try {
    processes = Processes::join();
  } catch (const std::exception& error) {
    print_error("{}{}: {}\n", program, Processes::launched_name(), error.what());
    return 1;
  }
  int status = run(*processes);
  if (const std::string lost = lost_output(); !lost.empty()) {
    print_error("{}{}: standard output: {}; files are whole, what was printed is not\n", program,
                processes->name(), lost);
    if (status == 0) status = 1;
  }
  return processes->leave(status);
}

RunProcesses share_run(Processes& processes, TrainOptions& options) {
  Communicator* const all = processes.communicator(options.process_timeout);
  if (all == nullptr) return {};
  require_same_on_all(*all, "the program", nlohmann::json{{"program", {{"build", build_hash()}}}},
                      "start the same file on every host");
  require_same_on_all(*all, "the options", compared(options), "start all ranks with the same options");
  options.processes = all->size();
  if (options.threads == 0) options.threads = processes.threads();
  return {all, processes.on_host()};
}

std::string share_products(TrainOptions& options, const RunProcesses& processes) {
  Products products;
  if (processes.is_first())
    products = choose_products(options, options.output.empty() ? "" : OutputPaths::log_in(options.output));
  if (processes.communicator != nullptr) {
    const nlohmann::json of_first =
        processes.from_first(nlohmann::json{{"float", products.choice.of_float},
                                            {"double", products.choice.of_double},
                                            {"low_precision", products.choice.of_low_precision},
                                            {"dtype", static_cast<int>(products.dtype)}},
                             "the products");
    products.choice = {of_first.at("float"), of_first.at("double"), of_first.at("low_precision")};
    products.dtype = static_cast<NumberType>(of_first.at("dtype").get<int>());
  }
  options.product_choice = products.choice;
  options.dtype = products.dtype;
  return products.text;
}

}  // namespace sparsegrad::finetune
