#include <sparsegrad/backend/cpu.hpp>

using DeviceBackend = sparsegrad::backend::Cpu;

#include "support/device_low_precision_primitives.hpp"
