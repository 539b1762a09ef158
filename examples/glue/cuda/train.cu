// The commands on a GPU.
#include "run_device.cuh"

#include "train/evaluate_command_impl.hpp"
#include "train/session_impl.hpp"
#include "train/train_command_impl.hpp"
#include "train/trainer_impl.hpp"
#include "train/trainer_state_impl.hpp"

namespace sparsegrad::glue {

template class BasicTrainer<backend::Cuda>;

int run_train_on_cuda(const TrainOptions& options) {
  return run_train_on<backend::Cuda>(options);
}

int run_evaluate_on_cuda(const EvaluateCommand& command) {
  return run_evaluate_on<backend::Cuda>(command);
}

}  // namespace sparsegrad::glue
