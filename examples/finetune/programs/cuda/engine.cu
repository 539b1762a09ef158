// The engine on a GPU.
#include <sparsegrad/sparsegrad_cuda.cuh>

#include "engine/adamw_impl.hpp"
#include "engine/device/layer_ops.cuh"
#include "engine/encoder_model_impl.hpp"
#include "engine/parameter_set_impl.hpp"

namespace sparsegrad::glue {

template class ParameterSet<float, backend::Cuda>;
template class EncoderModel<float, backend::Cuda>;
template class AdamW<float, backend::Cuda>;

}  // namespace sparsegrad::glue
