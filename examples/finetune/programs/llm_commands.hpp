// The commands of sparsegrad-llm.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "programs/processes.hpp"
#include "training/generation.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// Each returns the program's exit status; errors are exceptions.
int run_llm_train(const TrainOptions& options, Processes& processes);
/// In a program without CUDA it throws ValueError, as the others on a GPU.
int run_llm_train_on_cuda(const TrainOptions& options);

struct LlmEvaluateCommand {
  TrainOptions common;
  index_t exact_match = 0;  ///< examples whose answers are generated and compared; 0: none
  index_t max_new_tokens = 256;
  index_t choices = 0;  ///< questions of multiple choice whose choices are compared; 0: none
};
int run_llm_evaluate(const LlmEvaluateCommand& command);
int run_llm_evaluate_on_cuda(const LlmEvaluateCommand& command);

struct GenerateCommand {
  TrainOptions common;
  std::string prompt;  ///< empty: lines of standard input
  std::string system;
  bool raw = false;  ///< the prompt as it is, without the chat template
  index_t max_new_tokens = 256;
  SamplingOptions sampling;
};
int run_generate(const GenerateCommand& command);
int run_generate_on_cuda(const GenerateCommand& command);

struct ExportCommand {
  TrainOptions common;
  std::string format = "merged";     ///< or "gguf", "peft", "gguf-lora" or "delta"
  std::string save_dtype = "float";  ///< or "bf16" or "fp16"; of "gguf" also "q8_0"
  std::filesystem::path base;        ///< of an adapter or delta; empty: the model that the run's log names
};
int run_export(const ExportCommand& command);

int run_llm_inspect(const TrainOptions& options);

/// Reads the command line and runs what it says; reports errors on stderr.
int run_llm_program(int argc, char** argv);

}  // namespace sparsegrad::finetune
