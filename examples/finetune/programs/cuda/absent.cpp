// The commands' GPU part in a program that was built without it.
#include "programs/commands.hpp"
#include "programs/llm_commands.hpp"

namespace sparsegrad::finetune {

namespace {

[[noreturn]] int refuse() {
  throw ValueError(
      "--device is cuda, but this program was built without CUDA: configure with -DSPARSEGRAD_CUDA=ON "
      "(preset cuda), which needs the CUDA Toolkit, or use --device cpu");
}

}  // namespace

int run_train_on_cuda(const TrainOptions&) {
  refuse();
}

int run_evaluate_on_cuda(const EvaluateCommand&) {
  refuse();
}

int run_llm_train_on_cuda(const TrainOptions&) {
  refuse();
}

int run_llm_evaluate_on_cuda(const LlmEvaluateCommand&) {
  refuse();
}

int run_generate_on_cuda(const GenerateCommand&) {
  refuse();
}

}  // namespace sparsegrad::finetune
