// The training loop of language models on the CPU in bfloat16.
#include "training/causal_run_data_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class CausalRunData<bfloat16, HostBackend>;
template class BasicTrainer<DecoderModel<bfloat16, HostBackend>>;
template Evaluation evaluate_model(HostBackend::Context&, DecoderModel<bfloat16, HostBackend>&,
                                   const CausalDataset&, const EvaluateOptions&);

}  // namespace sparsegrad::finetune
