#include <sparsegrad/backend/cpu.hpp>

using DeviceBackend = sparsegrad::backend::Cpu;

#include "support/host_low_precision.hpp"
