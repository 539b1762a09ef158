#include "programs/train_command_impl.hpp"

namespace sparsegrad::glue {

int run_train(const TrainOptions& options) {
  return options.device == Device::cuda ? run_train_on_cuda(options)
                                        : run_train_on<float, backend::CpuBlas>(options);
}

}  // namespace sparsegrad::glue
