// From options to what the library's group of layers is told.
#pragma once

#include "training/options.hpp"

namespace sparsegrad::finetune {

/// The kind of MLP matrix number i of a model: "up" or "down".
inline const char* mlp_kind(index_t number) {
  return number % 2 == 0 ? "up" : "down";
}

BasisRecipe make_recipe(const SparseOptions& options);

}  // namespace sparsegrad::finetune
