// The engine on a GPU.
#include <sparsegrad/sparsegrad_cuda.cuh>

#include "models/encoder/encoder_model_impl.hpp"
#include "models/layers/device/layer_ops.cuh"
#include "models/parameters/parameter_set_impl.hpp"
#include "training/optimizer/adamw_impl.hpp"

namespace sparsegrad::finetune {

template class ParameterSet<float, backend::Cuda>;
template class EncoderModel<float, backend::Cuda>;
template class AdamW<float, backend::Cuda>;

}  // namespace sparsegrad::finetune
