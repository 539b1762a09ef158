#include <sparsegrad/backend/cpu_blas.hpp>

using DeviceBackend = sparsegrad::backend::CpuBlas;

#include "support/host_low_precision.hpp"
