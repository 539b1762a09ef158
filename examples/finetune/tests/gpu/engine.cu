#include <sparsegrad/sparsegrad_cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "checkpoints/hf_directory_impl.hpp"
#include "support/device_engine.hpp"
