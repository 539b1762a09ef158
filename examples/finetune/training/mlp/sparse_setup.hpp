// From options to what the library's group of layers is told.
#pragma once

#include <string>
#include <string_view>

#include "training/options.hpp"

namespace sparsegrad::finetune {

/// The kind of MLP matrix number i of a model: "up" or "down".
inline const char* mlp_kind(index_t number) {
  return number % 2 == 0 ? "up" : "down";
}

/// The kind of a trained matrix by its parameter's name: an encoder's up or down, a decoder's q, k, v, o, gate, up or down.
/// Matrices of a kind have one shape, and may share a basis.
std::string matrix_kind(std::string_view name);

/// How many vectors a side of this extent keeps, at most where that follows from the gradients.
index_t largest_rank(const SideRecipe& rule, index_t extent);

BasisRecipe make_recipe(const SparseOptions& options);

}  // namespace sparsegrad::finetune
