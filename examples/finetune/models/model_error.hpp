#pragma once

#include <stdexcept>

namespace sparsegrad::finetune {

/// What models and their files throw: the text names the file and the field or tensor.
class ModelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace sparsegrad::finetune
