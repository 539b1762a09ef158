// The commands on a GPU in bfloat16 and half.
#include "programs/cuda/run_device.cuh"

#include "programs/evaluate_command_impl.hpp"
#include "programs/train_command_impl.hpp"
#include "training/session_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class GlueRunData<bfloat16, backend::Cuda>;
template class BasicTrainer<EncoderModel<bfloat16, backend::Cuda>>;
template class GlueRunData<float16, backend::Cuda>;
template class BasicTrainer<EncoderModel<float16, backend::Cuda>>;
template int run_train_on<bfloat16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                   const RunProcesses&);
template int run_train_on<float16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                  const RunProcesses&);
template int run_evaluate_on<bfloat16, backend::Cuda>(const EvaluateCommand&);
template int run_evaluate_on<float16, backend::Cuda>(const EvaluateCommand&);

}  // namespace sparsegrad::finetune
