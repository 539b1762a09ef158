#include "programs/cuda/run_device.cuh"

using DeviceBackend = sparsegrad::backend::Cuda;

#include "checkpoints/decoder_folder_impl.hpp"
#include "training/causal_source_impl.hpp"
#include "training/generation_impl.hpp"
#define SPARSEGRAD_TEST_DEVICE_TYPES bfloat16, float16
#include "support/device_causal_train.hpp"
#include "support/device_narrow_decoder.hpp"
