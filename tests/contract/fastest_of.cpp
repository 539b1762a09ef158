#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/fastest_of.hpp>

using ContractBackend =
    sparsegrad::backend::FastestOf<sparsegrad::backend::CpuBlas, sparsegrad::backend::Cpu>;

#include "contract.hpp"
