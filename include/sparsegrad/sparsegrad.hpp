// Everything for the host, with Eigen as the default backend. Reaches no CUDA. Included by name: the files
// <sparsegrad/io/...>, <sparsegrad/tensor.hpp>, <sparsegrad/backend/cpu_blas.hpp> and <sparsegrad/backend/reference.hpp>.
#pragma once

#include "version.hpp"

#include "backend/cpu.hpp"

#include "hosvd_accumulator.hpp"
#include "side_recipe.hpp"
#include "tucker_basis.hpp"

#include "extras/error_feedback.hpp"
#include "plan.hpp"
#include "sparse_grad_linear.hpp"
#include "sparse_gradient.hpp"
#include "top_k.hpp"

#include "sparse_adam.hpp"
#include "weight_update.hpp"

#include "sparse_grad_group.hpp"
