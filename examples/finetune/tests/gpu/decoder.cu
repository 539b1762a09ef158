#include "programs/cuda/run_device.cuh"

using DeviceBackend = sparsegrad::backend::Cuda;

#include "checkpoints/decoder_folder_impl.hpp"
#include "support/device_float_decoder.hpp"
#include "training/causal_source_impl.hpp"
#include "training/generation_impl.hpp"
