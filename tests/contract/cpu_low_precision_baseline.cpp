// The same without the instructions of newer processors for 16-bit numbers, as a compiler has them that is told of no
// processor: CMakeLists.txt.
#include <sparsegrad/backend/cpu.hpp>

using DeviceBackend = sparsegrad::backend::Cpu;

#include "support/host_low_precision.hpp"
