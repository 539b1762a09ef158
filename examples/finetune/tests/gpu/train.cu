#include "programs/cuda/run_device.cuh"

using DeviceBackend = sparsegrad::backend::Cuda;

#include "checkpoints/hf_directory_impl.hpp"
#include "support/device_train.hpp"
