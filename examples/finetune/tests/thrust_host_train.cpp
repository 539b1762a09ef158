// The trainer with the GPU's kernels on Thrust's host system.
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
template class ParameterSet<float, DeviceBackend>;
template class EncoderModel<float, DeviceBackend>;
template class AdamW<float, DeviceBackend>;
template class GlueRunData<float, DeviceBackend>;
template class BasicTrainer<EncoderModel<float, DeviceBackend>>;

}  // namespace sparsegrad::finetune

#include "support/device_train.hpp"
