// The backend of types that name none.
#pragma once

#include "backend/cpu.hpp"

namespace sparsegrad {

using DefaultBackend = backend::Cpu;

}  // namespace sparsegrad
