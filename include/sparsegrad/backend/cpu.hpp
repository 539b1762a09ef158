// backend::Cpu: Eigen's kernels for dense products and the symmetric eigenproblem. The default
// backend.
#pragma once

#include "cpu/backend.hpp"

// The library sparsegrad::compiled has the parts in Eigen, and its users need none.
#ifndef SPARSEGRAD_COMPILED
#include "cpu/eigen.hpp"
#endif
