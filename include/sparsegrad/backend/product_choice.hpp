// Which backend's products a FastestOf takes.
#pragma once

#include <string>

#include "../core/config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

/// Which backend's products a context takes, by the backends' names.
struct ProductChoice {
  std::string of_float;          ///< products and Gram sums of float
  std::string of_double;         ///< those of double
  std::string of_low_precision;  ///< products of bfloat16 and float16
  /// Whether all names are equal.
  bool operator==(const ProductChoice&) const = default;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
