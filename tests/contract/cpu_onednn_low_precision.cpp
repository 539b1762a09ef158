#include <sparsegrad/backend/cpu_onednn.hpp>

using DeviceBackend = sparsegrad::backend::CpuOneDnn;

#include "support/host_low_precision.hpp"
