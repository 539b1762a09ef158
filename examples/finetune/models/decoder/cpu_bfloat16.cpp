#include "models/host_backend.hpp"

#include "models/decoder/decoder_model_impl.hpp"
#include "models/decoder/decoder_passes_impl.hpp"
#include "models/layers/host/decoder_ops.hpp"

namespace sparsegrad::finetune {

template class DecoderModel<bfloat16, HostBackend>;

}  // namespace sparsegrad::finetune
