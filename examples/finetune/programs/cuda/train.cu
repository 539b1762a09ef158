// The commands on a GPU.
#include "programs/cuda/run_device.cuh"

#include "programs/evaluate_command_impl.hpp"
#include "programs/train_command_impl.hpp"
#include "training/session_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class GlueRunData<float, backend::Cuda>;
template class BasicTrainer<EncoderModel<float, backend::Cuda>>;
// In train_narrow.cu.
extern template int run_train_on<bfloat16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                          const RunProcesses&);
extern template int run_train_on<float16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                         const RunProcesses&);
extern template int run_evaluate_on<bfloat16, backend::Cuda>(const EvaluateCommand&);
extern template int run_evaluate_on<float16, backend::Cuda>(const EvaluateCommand&);

int run_train_on_cuda(const TrainOptions& options) {
  switch (options.dtype) {
    case NumberType::bfloat16:
      return run_train_on<bfloat16, backend::Cuda>(options);
    case NumberType::float16:
      return run_train_on<float16, backend::Cuda>(options);
    default:
      return run_train_on<float, backend::Cuda>(options);
  }
}

int run_evaluate_on_cuda(const EvaluateCommand& command) {
  switch (command.common.dtype) {
    case NumberType::bfloat16:
      return run_evaluate_on<bfloat16, backend::Cuda>(command);
    case NumberType::float16:
      return run_evaluate_on<float16, backend::Cuda>(command);
    default:
      return run_evaluate_on<float, backend::Cuda>(command);
  }
}

}  // namespace sparsegrad::finetune
