#include "programs/evaluate_command_impl.hpp"

#include "checkpoints/model_folder.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

bool is_same_file(const fs::path& a, const fs::path& b) {
  std::error_code code;
  if (fs::exists(a, code) && fs::exists(b, code))
    return fs::is_regular_file(a, code) && fs::equivalent(a, b, code);
  return fs::weakly_canonical(a, code) == fs::weakly_canonical(b, code);
}

/// Files that a model folder is read from, and the like that lie in it.
std::vector<fs::path> model_files(const fs::path& folder) {
  std::vector<fs::path> files{folder / shards_file};
  for (const char* name : saved_file_names())
    files.push_back(folder / name);
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  return files;
}

}  // namespace

void detail::require_own_files(const EvaluateCommand& command, const Task& task, const DataSource& source) {
  const fs::path& predictions = command.predictions;
  const fs::path& submission = command.submission;
  if (!predictions.empty() && !submission.empty() && is_same_file(predictions, submission)) {
    throw ValueError(
        fmt::format("--predictions and --submission are both {}, expected two files", submission.string()));
  }
  std::vector<fs::path> read = model_files(command.common.model);
  if (!source.folder.empty()) {
    for (const Split split : {Split::train, Split::dev, Split::test}) {
      const std::vector<fs::path> files = find_task_files(task, source.folder, split);
      read.insert(read.end(), files.begin(), files.end());
    }
  }
  for (const auto& [option, path] :
       {std::pair("--predictions", &predictions), std::pair("--submission", &submission)}) {
    for (const fs::path& file : read) {
      if (path->empty() || !is_same_file(*path, file)) continue;
      throw ValueError(fmt::format(
          "{} is {}, a file of the model or the data, which it would replace; expected another file", option,
          path->string()));
    }
  }
}

// In cpu_bfloat16.cpp.
extern template int run_evaluate_on<bfloat16, HostBackend>(const EvaluateCommand&);

int run_evaluate(const EvaluateCommand& command) {
  if (command.common.device == Device::cuda) return run_evaluate_on_cuda(command);
  EvaluateCommand chosen = command;
  const Products products = choose_products(command.common);
  chosen.common.product_choice = products.choice;
  chosen.common.dtype = products.dtype;
  if (!products.note.empty() && !command.common.quiet) fmt::print(stderr, "note: {}\n", products.note);
  return chosen.common.dtype == NumberType::bfloat16 ? run_evaluate_on<bfloat16, HostBackend>(chosen)
                                                     : run_evaluate_on<float, HostBackend>(chosen);
}

}  // namespace sparsegrad::finetune
