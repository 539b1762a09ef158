#include "programs/evaluate_command_impl.hpp"

namespace sparsegrad::glue {

int run_evaluate(const EvaluateCommand& command) {
  return command.common.device == Device::cuda ? run_evaluate_on_cuda(command)
                                               : run_evaluate_on<float, backend::CpuBlas>(command);
}

}  // namespace sparsegrad::glue
