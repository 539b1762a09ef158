#include "train/trainer_impl.hpp"
#include "train/trainer_state_impl.hpp"

namespace sparsegrad::glue {

template class BasicTrainer<float, backend::CpuBlas>;

}  // namespace sparsegrad::glue
