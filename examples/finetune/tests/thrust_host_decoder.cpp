// The GPU's kernels of the decoder on Thrust's host system: against transformers' and peft's goldens, and against the
// CPU's decoder with everything on that the goldens leave out.
#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_decoder_ops.hpp"
#include "support/fenced_layer_ops.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "models/host_backend.hpp"

#include "checkpoints/decoder_folder_impl.hpp"
#include "models/decoder/decoder_model_impl.hpp"
#include "models/decoder/decoder_passes_impl.hpp"
#include "models/parameters/parameter_set_impl.hpp"
#include "support/device_float_decoder.hpp"
#include "training/optimizer/adamw_impl.hpp"

namespace sparsegrad::finetune {

extern template class ParameterSet<double, HostBackend>;
extern template class ParameterSet<float, HostBackend>;
extern template class DecoderModel<double, HostBackend>;
extern template class DecoderModel<float, HostBackend>;
extern template class AdamW<double, HostBackend>;
template class ParameterSet<float, DeviceBackend>;
template class DecoderModel<float, DeviceBackend>;
template class AdamW<float, DeviceBackend>;

namespace test {

TEST_CASE("device decoder in double equals the CPU's") {
  check_all_decoders<double, double>(1e-11);
}

}  // namespace test

}  // namespace sparsegrad::finetune
