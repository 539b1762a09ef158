// Kernels that all optimised host backends share: everything but the dense products and the eigenproblem.
#pragma once

#include "../reference.hpp"

namespace sparsegrad::backend::host {

struct Kernels : Reference {};

}  // namespace sparsegrad::backend::host
