// Values of command lines, for the programs that have a handful of options.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace sparsegrad::bench {

/// Throws std::invalid_argument unless `value` is a whole number >= 1.
inline long positive_number(const std::string& key, const std::string& value) {
  char* end = nullptr;
  const long n = std::strtol(value.c_str(), &end, 10);
  if (*end != 0 || n < 1) throw std::invalid_argument(key + " is " + value + ", expected a positive number");
  return n;
}

}  // namespace sparsegrad::bench
