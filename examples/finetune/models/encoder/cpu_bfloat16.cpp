#include "models/host_backend.hpp"

#include "models/encoder/encoder_model_impl.hpp"
#include "models/layers/host/layer_ops.hpp"
#include "models/parameters/parameter_set_impl.hpp"

namespace sparsegrad::finetune {

template class ParameterSet<bfloat16, HostBackend>;
template class EncoderModel<bfloat16, HostBackend>;

}  // namespace sparsegrad::finetune
