#include <sparsegrad/backend/cpu_onednn.hpp>

using DeviceBackend = sparsegrad::backend::CpuOneDnn;

#include "support/device_low_precision_layer.hpp"
