#include <sparsegrad/backend/cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "support/device_narrow_primitives.hpp"
