#include <sparsegrad/backend/reference.hpp>

using DeviceBackend = sparsegrad::backend::Reference;

#include "support/device_low_precision_layer.hpp"
