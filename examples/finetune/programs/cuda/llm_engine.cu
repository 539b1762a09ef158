// The decoder on a GPU.
#include <sparsegrad/sparsegrad_cuda.cuh>

#include "models/decoder/decoder_model_impl.hpp"
#include "models/decoder/decoder_passes_impl.hpp"
#include "models/layers/device/decoder_ops.cuh"

namespace sparsegrad::finetune {

template class DecoderModel<float, backend::Cuda>;

}  // namespace sparsegrad::finetune
