// The commands on a GPU in bfloat16 and half.
#include "run_device.cuh"

#include "train/evaluate_command_impl.hpp"
#include "train/session_impl.hpp"
#include "train/train_command_impl.hpp"
#include "train/trainer_impl.hpp"
#include "train/trainer_state_impl.hpp"

namespace sparsegrad::glue {

template class BasicTrainer<bfloat16, backend::Cuda>;
template class BasicTrainer<float16, backend::Cuda>;
template int run_train_on<bfloat16, backend::Cuda>(const TrainOptions&);
template int run_train_on<float16, backend::Cuda>(const TrainOptions&);
template int run_evaluate_on<bfloat16, backend::Cuda>(const EvaluateCommand&);
template int run_evaluate_on<float16, backend::Cuda>(const EvaluateCommand&);

}  // namespace sparsegrad::glue
