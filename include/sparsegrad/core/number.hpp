// Numbers that come in: their range in the type in which they are used, and their text in messages.
#pragma once

#include <charconv>
#include <limits>
#include <string>
#include <system_error>

#include "float_bits.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The shortest text that reads back as the same number: "0.95", "1e-09", "nan".
template <class T>
std::string number_text(T value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return error == std::errc() ? std::string(text, end) : std::string("?");
}

/// The number in at most `digits` significant digits: "0.001", "1e-09". For what was measured, not given.
inline std::string number_text(double value, int digits) {
  char text[32];
  const auto [end, error] =
      std::to_chars(text, text + sizeof text, value, std::chars_format::general, digits);
  return error == std::errc() ? std::string(text, end) : std::string("?");
}

/// Whether x is finite once it is rounded to T: options are doubles, sums often floats.
template <class T>
bool finite_in(double x) {
  constexpr auto most = static_cast<double>((std::numeric_limits<T>::max)());
  return is_finite(x) && -most <= x && x <= most;
}

/// Whether x is 0, or finite in T and at least T's smallest normal number in magnitude: not lost in
/// T.
template <class T>
bool normal_in(double x) {
  constexpr auto least = static_cast<double>((std::numeric_limits<T>::min)());
  return finite_in<T>(x) && (x == 0 || x <= -least || x >= least);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
