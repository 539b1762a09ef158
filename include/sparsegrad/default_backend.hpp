// The backend of types that name none. Only declared here, so that a stage's header reaches no
// Eigen: a program that uses it includes <sparsegrad/sparsegrad.hpp>, or
// <sparsegrad/backend/cpu.hpp> beside the stage's own header.
#pragma once

#include "core/config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace backend {
struct Cpu;
}

using DefaultBackend = backend::Cpu;

}  // namespace sparsegrad::SPARSEGRAD_ABI
