#include <sparsegrad/backend/cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "support/device_low_precision_primitives.hpp"
