#include <sparsegrad/backend/cpu_blas.hpp>

using ContractBackend = sparsegrad::backend::CpuBlas;

#include "contract.hpp"
