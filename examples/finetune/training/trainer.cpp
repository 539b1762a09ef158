#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class GlueRunData<float, HostBackend>;
template class BasicTrainer<EncoderModel<float, HostBackend>>;

}  // namespace sparsegrad::finetune
