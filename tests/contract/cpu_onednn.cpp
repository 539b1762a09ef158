#include <sparsegrad/backend/cpu_onednn.hpp>

using ContractBackend = sparsegrad::backend::CpuOneDnn;

#include "contract.hpp"
