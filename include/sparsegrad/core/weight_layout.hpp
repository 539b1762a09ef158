// WeightLayout: how a weight and its gradient are stored.
#pragma once

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Which index of a stored weight, or of its gradient, runs over the outputs.
enum class WeightLayout {
  out_in,  ///< W [out, in], y = x W^T + b
  in_out,  ///< W [in, out], y = x W + b
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
