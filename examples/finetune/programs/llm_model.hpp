// What the commands share that use a language model as it is.
#pragma once

#include "training/causal_session.hpp"
#include "training/output/console.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

/// A model for passes forward alone.
inline TrainedParts nothing_trained() {
  TrainedParts parts;
  parts.mlp.matrices = false;
  parts.dense = [](std::string_view) { return false; };
  return parts;
}

/// Calls f(options, T()) with the products and the type of numbers that the options ask for, or let the machine choose.
template <class F>
int on_chosen_type(const TrainOptions& options, F&& f) {
  TrainOptions chosen = options;
  const Products products = choose_products(options);
  chosen.product_choice = products.choice;
  chosen.dtype = products.dtype;
  if (!products.note.empty() && !options.quiet) print_error("note: {}\n", products.note);
  return chosen.dtype == NumberType::bfloat16 ? f(chosen, bfloat16()) : f(chosen, float());
}

}  // namespace sparsegrad::finetune
