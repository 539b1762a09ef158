// Runs of language models with the GPU's kernels on Thrust's host system: SPARSEGRAD_TEST_CAUSAL(T) instantiates, in
// namespace sparsegrad::finetune, what such a run in T needs.
#pragma once

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

}  // namespace sparsegrad::finetune

#define SPARSEGRAD_TEST_CAUSAL(T)                 \
  template class ParameterSet<T, DeviceBackend>;  \
  template class DecoderModel<T, DeviceBackend>;  \
  template class AdamW<T, DeviceBackend>;         \
  template class CausalRunData<T, DeviceBackend>; \
  template class BasicTrainer<DecoderModel<T, DeviceBackend>>
