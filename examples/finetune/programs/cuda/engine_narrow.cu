// The engine on a GPU in bfloat16 and half.
#include <sparsegrad/sparsegrad_cuda.cuh>

#include "models/encoder/encoder_model_impl.hpp"
#include "models/layers/device/layer_ops.cuh"
#include "models/parameters/parameter_set_impl.hpp"
#include "training/optimizer/adamw_impl.hpp"

namespace sparsegrad::finetune {

template class ParameterSet<bfloat16, backend::Cuda>;
template class EncoderModel<bfloat16, backend::Cuda>;
template class AdamW<bfloat16, backend::Cuda>;
template class ParameterSet<float16, backend::Cuda>;
template class EncoderModel<float16, backend::Cuda>;
template class AdamW<float16, backend::Cuda>;

}  // namespace sparsegrad::finetune
