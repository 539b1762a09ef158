#include <sparsegrad/backend/reference.hpp>

using DeviceBackend = sparsegrad::backend::Reference;

#include "support/device_narrow_primitives.hpp"
