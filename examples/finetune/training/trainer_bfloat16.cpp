#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class GlueRunData<bfloat16, HostBackend>;
template class BasicTrainer<EncoderModel<bfloat16, HostBackend>>;

}  // namespace sparsegrad::finetune
