// The training loop of language models on the CPU.
#include "training/causal_run_data_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class CausalRunData<float, HostBackend>;
template class BasicTrainer<DecoderModel<float, HostBackend>>;
template Evaluation evaluate_model(HostBackend::Context&, DecoderModel<float, HostBackend>&,
                                   const CausalDataset&, const EvaluateOptions&);

}  // namespace sparsegrad::finetune
