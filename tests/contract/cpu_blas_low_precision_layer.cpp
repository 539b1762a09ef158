#include <sparsegrad/backend/cpu_blas.hpp>

using DeviceBackend = sparsegrad::backend::CpuBlas;

#include "support/device_low_precision_layer.hpp"
