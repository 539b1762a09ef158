// The program's commands.
#pragma once

#include <filesystem>
#include <string>

#include "programs/processes.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// Each returns the program's exit status; errors are exceptions.
int run_train(const TrainOptions& options, Processes& processes);
/// `products`: what the log says of the products, lines of text or nothing. `processes`: those that share the run.
template <class T, class Backend>
int run_train_on(const TrainOptions& options, const std::string& products = "",
                 const RunProcesses& processes = {});
/// In a program without CUDA it throws ValueError.
int run_train_on_cuda(const TrainOptions& options);

struct EvaluateCommand {
  TrainOptions common;  ///< task, model, data, max_length, padding, dev_limit, threads
  std::string split = "dev";
  std::filesystem::path predictions;
  std::filesystem::path submission;
};
int run_evaluate(const EvaluateCommand& command);
template <class T, class Backend>
int run_evaluate_on(const EvaluateCommand& command);
int run_evaluate_on_cuda(const EvaluateCommand& command);

struct InspectCommand {
  TrainOptions common;
  index_t at_step = 50;
  index_t layer = -1;  ///< whose gradient is kept as a picture; -1: the middle one
};
int run_inspect(const InspectCommand& command);

/// Reads the command line and runs what it says; reports errors on stderr.
int run_program(int argc, char** argv);

}  // namespace sparsegrad::finetune
