#include <sparsegrad/backend/reference.hpp>

using ContractBackend = sparsegrad::backend::Reference;

#include "contract.hpp"
