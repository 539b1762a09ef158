#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_backend.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "support/device_low_precision_layer.hpp"
