#include "support/cuda_stubs/backend.hpp"

using DeviceBackend = sparsegrad::test::cuda_stubs::Cuda;

#include "support/device_low_precision_layer.hpp"
