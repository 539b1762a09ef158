// The library's exceptions. Every text says what was expected and what was found, with the numbers.
#pragma once

#include <stdexcept>
#include <string>

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Root of every exception that the library throws itself.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Extents that do not fit together.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// An argument outside its range.
class ValueError : public Error {
 public:
  using Error::Error;
};

/// NaN or Inf where finite numbers are required.
class NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// A call in the wrong order: the object is not in the state that the call needs.
class StateError : public Error {
 public:
  using Error::Error;
};

/// A compact optimizer state that is full under the policy `error`.
class CapacityError : public Error {
 public:
  using Error::Error;
};

/// A file that cannot be read, is malformed, or cannot be written.
class IoError : public Error {
 public:
  using Error::Error;
};

/// Processes that work together and do not reach each other: the engine of communication reports an
/// error, a rank does not come, or ranks differ where they must be equal.
class CommunicationError : public Error {
 public:
  using Error::Error;
};

/// Returns f(). An Error that it throws is thrown anew, of its class among the above, with `who()`
/// and ": " before its text, unless the text has that name already.
template <class Who, class F>
decltype(auto) with_name(const Who& who, F&& f) {
  const auto named = [&](const Error& error) {
    const std::string name = who();
    const std::string text = error.what();
    return text.find(name) == std::string::npos ? name + ": " + text : text;
  };
  try {
    return f();
  } catch (const ShapeError& error) {
    throw ShapeError(named(error));
  } catch (const ValueError& error) {
    throw ValueError(named(error));
  } catch (const NonFiniteError& error) {
    throw NonFiniteError(named(error));
  } catch (const StateError& error) {
    throw StateError(named(error));
  } catch (const CapacityError& error) {
    throw CapacityError(named(error));
  } catch (const CommunicationError& error) {
    throw CommunicationError(named(error));
  }
}

/// "64x128": how every message writes a shape.
inline std::string shape_text(index_t rows, index_t cols) {
  return std::to_string(rows) + "x" + std::to_string(cols);
}

/// Throws ShapeError unless rows x cols is expected_rows x expected_cols.
/// `what` names the argument: "dY is 3x5, expected 3x4 (tokens x out)".
inline void require_shape(const char* what, index_t rows, index_t cols, index_t expected_rows,
                          index_t expected_cols, const char* meaning) {
  if (rows == expected_rows && cols == expected_cols) return;
  throw ShapeError(std::string(what) + " is " + shape_text(rows, cols) + ", expected " +
                   shape_text(expected_rows, expected_cols) + " (" + meaning + ")");
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
