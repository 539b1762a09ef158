#pragma once

#include <stdexcept>

namespace sparsegrad::finetune {

/// What the readers of data throw. The text starts with `file:line:` where a line is at fault.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace sparsegrad::finetune
