#include <sparsegrad/sparsegrad_cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "support/device_narrow_layer.hpp"
