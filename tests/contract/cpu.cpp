#include <sparsegrad/backend/cpu.hpp>

using ContractBackend = sparsegrad::backend::Cpu;

#include "contract.hpp"
