#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class BasicTrainer<bfloat16, HostBackend>;

}  // namespace sparsegrad::finetune
