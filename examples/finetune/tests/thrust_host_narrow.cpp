// The encoder and the trainer in bfloat16 and half, with the GPU's kernels on Thrust's host system. A warp's tensor cores
// are loops there.
#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_layer_ops.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "checkpoints/hf_directory_impl.hpp"
#include "models/encoder/encoder_model_impl.hpp"
#include "models/parameters/parameter_set_impl.hpp"
#include "support/thrust_host_run.hpp"
#include "training/optimizer/adamw_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

extern template class ParameterSet<float, HostBackend>;
extern template class EncoderModel<float, HostBackend>;
extern template class AdamW<float, HostBackend>;
extern template class GlueRunData<float, HostBackend>;
extern template class BasicTrainer<EncoderModel<float, HostBackend>>;
template class ParameterSet<bfloat16, DeviceBackend>;
template class EncoderModel<bfloat16, DeviceBackend>;
template class AdamW<bfloat16, DeviceBackend>;
template class GlueRunData<bfloat16, DeviceBackend>;
template class BasicTrainer<EncoderModel<bfloat16, DeviceBackend>>;
template class ParameterSet<float16, DeviceBackend>;
template class EncoderModel<float16, DeviceBackend>;
template class AdamW<float16, DeviceBackend>;
template class GlueRunData<float16, DeviceBackend>;
template class BasicTrainer<EncoderModel<float16, DeviceBackend>>;

}  // namespace sparsegrad::finetune

#include "support/device_narrow_engine.hpp"
