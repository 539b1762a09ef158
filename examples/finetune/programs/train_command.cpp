#include "programs/train_command_impl.hpp"

namespace sparsegrad::glue {

// In cpu_bfloat16.cpp.
extern template int run_train_on<bfloat16, backend::CpuBlas>(const TrainOptions&);

int run_train(const TrainOptions& options) {
  if (options.device == Device::cuda) return run_train_on_cuda(options);
  return options.dtype == NumberType::bfloat16 ? run_train_on<bfloat16, backend::CpuBlas>(options)
                                               : run_train_on<float, backend::CpuBlas>(options);
}

}  // namespace sparsegrad::glue
