#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class BasicTrainer<float, HostBackend>;

}  // namespace sparsegrad::finetune
