#include "programs/train_command_impl.hpp"

namespace sparsegrad::finetune {

// In cpu_bfloat16.cpp.
extern template int run_train_on<bfloat16, HostBackend>(const TrainOptions&, const std::string&,
                                                        const RunProcesses&);

int run_train(const TrainOptions& options, Processes& processes) {
  if (options.device == Device::cuda) {
    processes.require_one("train --device cuda");
    return run_train_on_cuda(options);
  }
  return processes.guard([&] {
    options.check();
    TrainOptions chosen = options;
    const RunProcesses shared = share_run(processes, chosen);
    const std::string products = share_products(chosen, shared);
    return chosen.dtype == NumberType::bfloat16
               ? run_train_on<bfloat16, HostBackend>(chosen, products, shared)
               : run_train_on<float, HostBackend>(chosen, products, shared);
  });
}

}  // namespace sparsegrad::finetune
