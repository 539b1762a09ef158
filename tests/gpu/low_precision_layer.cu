#include <sparsegrad/sparsegrad_cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "support/device_low_precision_layer.hpp"
