// Everything for the GPU. Reaches no Eigen. Types name their backend: SparseGradLinear<float,
// backend::Cuda>.
#pragma once

#include "version.hpp"

#include "backend/cuda.cuh"

#include "hosvd_accumulator.hpp"
#include "side_recipe.hpp"
#include "tucker_basis.hpp"

#include "core_optimizer.hpp"
#include "given_gradient.hpp"
#include "plan.hpp"
#include "selector.hpp"
#include "sparse_grad_linear.hpp"
#include "sparse_gradient.hpp"
#include "top_k.hpp"

#include "sparse_adam.hpp"
#include "weight_update.hpp"

#include "sparse_grad_group.hpp"
