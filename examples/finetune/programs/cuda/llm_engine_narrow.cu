// The decoder on a GPU in bfloat16 and half.
#include <sparsegrad/sparsegrad_cuda.cuh>

#include "models/decoder/decoder_model_impl.hpp"
#include "models/decoder/decoder_passes_impl.hpp"
#include "models/layers/device/decoder_ops.cuh"

namespace sparsegrad::finetune {

template class DecoderModel<bfloat16, backend::Cuda>;
template class DecoderModel<float16, backend::Cuda>;

}  // namespace sparsegrad::finetune
