// Kernels that all optimised host backends share: everything but the dense products and the eigenproblem.
#pragma once

#include "../reference.hpp"
#include "slots.hpp"

namespace sparsegrad::backend::host {

struct Kernels : Slots {};

}  // namespace sparsegrad::backend::host
