#include <sparsegrad/backend/thrust_host.cuh>

using ContractBackend = sparsegrad::backend::ThrustHost;

#include "batched.hpp"
