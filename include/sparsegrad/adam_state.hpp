// SparseAdam's options as a saved state has them.
#pragma once

#include <string>

#include "adam_options.hpp"
#include "core_optimizer.hpp"

namespace sparsegrad {

/// The type of SparseAdam's saved states.
inline constexpr const char* adam_state_type = "sparse_adam 1";

/// Writes type and options into a state.
template <class T>
void put_adam_options(OptimizerState<T>& s, const SparseAdamOptions& options) {
  s.type = adam_state_type;
  s.capacity = options.capacity;
  s.numbers = {{"beta1", options.beta1}, {"beta2", options.beta2}, {"eps", options.eps}};
  s.texts = {{"semantics", to_string(options.semantics)}, {"overflow", to_string(options.overflow)}};
}

/// The value of an enumeration 0 .. last that to_string calls `text`. Throws ValueError.
template <class Enum>
Enum enum_from_text(const std::string& what, const std::string& text, Enum last) {
  std::string all;
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    const char* name = to_string(static_cast<Enum>(i));
    if (text == name) return static_cast<Enum>(i);
    all += (i > 0 ? ", " : "") + std::string(name);
  }
  throw ValueError(what + " is '" + text + "', expected one of " + all);
}

/// The options that a state was made with. Throws ValueError when it has none of SparseAdam's.
template <class T>
SparseAdamOptions adam_options(const OptimizerState<T>& s) {
  SparseAdamOptions options;
  options.beta1 = s.number("beta1");
  options.beta2 = s.number("beta2");
  options.eps = s.number("eps");
  options.semantics = enum_from_text("semantics", s.text("semantics"), AdamSemantics::dense_core);
  options.capacity = s.capacity;
  options.overflow = enum_from_text("overflow", s.text("overflow"), Overflow::error);
  return options;
}

/// Throws ValueError, saying what differs, unless the state is a SparseAdam's for a core of these extents and was made
/// with these options.
template <class T>
void require_adam_state(const OptimizerState<T>& s, index_t rows, index_t cols,
                        const SparseAdamOptions& options) {
  core_optimizer::require_state(s, adam_state_type, rows, cols);
  using core_optimizer::require_option;
  require_option("beta1", s.number("beta1"), options.beta1);
  require_option("beta2", s.number("beta2"), options.beta2);
  require_option("eps", s.number("eps"), options.eps);
  require_option("semantics", s.text("semantics"), to_string(options.semantics));
  require_option("capacity", s.capacity, options.capacity);
  require_option("overflow policy", s.text("overflow"), to_string(options.overflow));
}

}  // namespace sparsegrad
