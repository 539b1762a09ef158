// The decoder and its trainer in bfloat16 and half, with the GPU's kernels on Thrust's host system. A warp's tensor cores
// are loops there.
#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_decoder_ops.hpp"
#include "support/fenced_layer_ops.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "models/host_backend.hpp"

#include "checkpoints/decoder_folder_impl.hpp"
#include "models/decoder/decoder_model_impl.hpp"
#include "models/decoder/decoder_passes_impl.hpp"
#include "models/parameters/parameter_set_impl.hpp"
#include "support/thrust_host_run.hpp"
#include "training/causal_run_data_impl.hpp"
#include "training/causal_source_impl.hpp"
#include "training/generation_impl.hpp"
#include "training/optimizer/adamw_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

extern template class ParameterSet<float, HostBackend>;
extern template class DecoderModel<float, HostBackend>;
extern template class AdamW<float, HostBackend>;
extern template class CausalRunData<float, HostBackend>;
extern template class BasicTrainer<DecoderModel<float, HostBackend>>;
template class ParameterSet<bfloat16, DeviceBackend>;
template class DecoderModel<bfloat16, DeviceBackend>;
template class AdamW<bfloat16, DeviceBackend>;
template class CausalRunData<bfloat16, DeviceBackend>;
template class BasicTrainer<DecoderModel<bfloat16, DeviceBackend>>;
template class ParameterSet<float16, DeviceBackend>;
template class DecoderModel<float16, DeviceBackend>;
template class AdamW<float16, DeviceBackend>;
template class CausalRunData<float16, DeviceBackend>;
template class BasicTrainer<DecoderModel<float16, DeviceBackend>>;

}  // namespace sparsegrad::finetune

#define SPARSEGRAD_TEST_DEVICE_TYPES bfloat16, float16
#include "support/device_causal_train.hpp"
#include "support/device_narrow_decoder.hpp"
