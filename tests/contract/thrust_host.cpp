#include "support/ordered_thrust_host.hpp"

using ContractBackend = sparsegrad::test::OrderedThrustHost;

#include "batched.hpp"
