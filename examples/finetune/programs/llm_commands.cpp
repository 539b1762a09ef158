// The commands that use a language model as it is, on the CPU or the GPU that the options name.
#include "programs/llm_commands.hpp"

#include <fmt/format.h>

#include "programs/llm_evaluate_impl.hpp"
#include "programs/llm_generate_impl.hpp"

namespace sparsegrad::finetune {

int run_llm_evaluate(const LlmEvaluateCommand& command) {
  if (command.common.data.empty())
    throw ValueError("--data FILE is missing: questions and answers to evaluate on");
  if (command.choices < 0 || command.exact_match < 0) {
    throw ValueError(fmt::format("{} is {}, expected a number of questions, 0 for none",
                                 command.choices < 0 ? "--choices" : "--exact-match",
                                 command.choices < 0 ? command.choices : command.exact_match));
  }
  command.common.check();
  if (command.common.device == Device::cuda) return run_llm_evaluate_on_cuda(command);
  return on_chosen_type(command.common, [&]<class T>(const TrainOptions& chosen, T) {
    LlmEvaluateCommand own = command;
    own.common = chosen;
    return run_llm_evaluate_on<T, HostBackend>(own);
  });
}

int run_generate(const GenerateCommand& command) {
  command.sampling.check();
  if (command.max_new_tokens < 1)
    throw ValueError(fmt::format("--max-new-tokens is {}, expected at least 1", command.max_new_tokens));
  command.common.check_device();
  if (command.common.device == Device::cuda) return run_generate_on_cuda(command);
  return on_chosen_type(command.common, [&]<class T>(const TrainOptions& chosen, T) {
    GenerateCommand own = command;
    own.common = chosen;
    return run_generate_on<T, HostBackend>(own);
  });
}

}  // namespace sparsegrad::finetune
