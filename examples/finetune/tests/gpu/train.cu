#include "cuda/run_device.cuh"

using DeviceBackend = sparsegrad::backend::Cuda;

#include "engine/hf_directory_impl.hpp"
#include "support/device_train.hpp"
