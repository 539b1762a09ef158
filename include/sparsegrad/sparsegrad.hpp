// Everything for the host, with Eigen as the default backend. Reaches no CUDA. Included by name:
// <sparsegrad/io/...>, <sparsegrad/extras/...>, <sparsegrad/backend/cpu_blas.hpp> and
// <sparsegrad/backend/reference.hpp>.
#pragma once

#include "version.hpp"

#include "backend/cpu.hpp"

// gradients -> basis
#include "hosvd_accumulator.hpp"
#include "side_recipe.hpp"
#include "tucker_basis.hpp"

// -> core gradient
#include "core_gradient.hpp"
#include "given_gradient.hpp"
#include "plan.hpp"

// -> sparse gradient
#include "selector.hpp"
#include "sparse_gradient.hpp"
#include "top_k.hpp"

// -> optimizer
#include "core_optimizer.hpp"
#include "sparse_adam.hpp"

// -> weight
#include "sparse_grad_linear.hpp"
#include "weight_update.hpp"

// a whole model
#include "sparse_grad_group.hpp"

// Classes of float and bfloat16 on the default backend come from the library sparsegrad::compiled.
#ifdef SPARSEGRAD_COMPILED
#include "compiled/cpu.hpp"
#endif
