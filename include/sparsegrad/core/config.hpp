// Basic types of the library, and what it asks of the compiler.
#pragma once

// One error each, not the thousands that would follow: the missing header ends the compilation.
#if !defined(__cpp_concepts) || __cpp_concepts < 201907L
#error "sparsegrad needs C++20 (g++ 12 or clang 14, -std=c++20, or newer)"
#include <sparsegrad/needs C++20>
#endif
#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "sparsegrad reports errors by exceptions: without them (-fno-exceptions) use sparsegrad/c/sparsegrad.h"
#include <sparsegrad/needs exceptions>
#endif

#include <cstdint>
#include <type_traits>

#include "abi.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Extents, offsets and counts. Signed, 64 bits: stacks of gradients pass 2^31 entries.
using index_t = std::int64_t;

/// Flat position in a core, as stored: 32 bits halve the memory of a support. Constructors check
/// the range.
using stored_index_t = std::int32_t;

namespace detail {
template <class T>
struct ComputeType {
  using type = T;
};
}  // namespace detail

/// Type of sums, bases, cores and moments for parameters stored as `T`: float for bfloat16 and
/// float16 (low_precision.hpp), else T itself.
template <class T>
using compute_t = typename detail::ComputeType<T>::type;

}  // namespace sparsegrad::SPARSEGRAD_ABI
