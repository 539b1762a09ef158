#include "models/host_backend.hpp"

#include "models/layers/host/layer_ops.hpp"
#include "training/optimizer/adamw_impl.hpp"

namespace sparsegrad::finetune {

template class AdamW<float, HostBackend>;
template class AdamW<double, HostBackend>;
template class AdamW<bfloat16, HostBackend>;

}  // namespace sparsegrad::finetune
