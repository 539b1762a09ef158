#include "programs/llm_train_impl.hpp"
#include "training/adapter_start.hpp"

namespace sparsegrad::finetune {

int run_llm_train(const TrainOptions& options, Processes& processes) {
  if (options.device == Device::cuda) processes.require_one("train --device cuda");
  return processes.guard([&] {
    options.check();
    if (options.data.empty()) throw ValueError("--data FILE is missing: questions and answers to train on");
    TrainOptions chosen = options.causal.value().start.empty() ? options : options_of_start(options);
    if (chosen.device == Device::cuda) return run_llm_train_on_cuda(chosen);
    const RunProcesses shared = share_run(processes, chosen);
    const std::string products = share_products(chosen, shared);
    return chosen.dtype == NumberType::bfloat16
               ? run_llm_train_on<bfloat16, HostBackend>(chosen, products, shared)
               : run_llm_train_on<float, HostBackend>(chosen, products, shared);
  });
}

}  // namespace sparsegrad::finetune
