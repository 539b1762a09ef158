// Everything for the host, with Eigen as the default backend. Reaches no CUDA. The files alone: <sparsegrad/io/...>,
// <sparsegrad/backend/cpu_blas.hpp> and <sparsegrad/backend/reference.hpp> are included by name.
#pragma once

#include "version.hpp"

#include "backend/cpu.hpp"

#include "hosvd_accumulator.hpp"
#include "rank_rule.hpp"
#include "tucker_basis.hpp"

#include "plan.hpp"
#include "sparse_grad_linear.hpp"
#include "sparse_gradient.hpp"
#include "top_k.hpp"

#include "sparse_adam.hpp"
#include "weight_update.hpp"

#include "sparse_grad_group.hpp"

#include "tensor.hpp"
