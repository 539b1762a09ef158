#include <sparsegrad/sparsegrad_cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "engine/hf_directory_impl.hpp"
#include "support/device_engine.hpp"
