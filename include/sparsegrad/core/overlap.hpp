// Whether two matrices have memory in common, and the refusal of those that do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "error.hpp"
#include "view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Whether an element of `a` and one of `b` lie in the same memory. Views that interleave, as
/// column blocks of one fused matrix do, have none in common. O(1) where the memory that they span
/// is apart, else O(rows of a).
template <class T, class U>
bool overlap(MatrixView<T> a, MatrixView<U> b) {
  if (a.empty() || b.empty()) return false;
  const auto address = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p); };
  const auto width = [](const auto& m, index_t elements) {
    return static_cast<std::uintptr_t>(elements) * sizeof(*m.data);
  };
  const auto end = [&](const auto& m) {
    return address(m.data) + width(m, (m.rows - 1) * m.stride + m.cols);
  };
  const std::uintptr_t first = address(b.data);
  if (end(a) <= first || end(b) <= address(a.data)) return false;
  const std::uintptr_t step = std::max<std::uintptr_t>(width(b, b.stride), 1);
  for (index_t i = 0; i < a.rows; ++i) {
    const std::uintptr_t begin = address(a.data) + width(a, i * a.stride);
    const std::uintptr_t stop = begin + width(a, a.cols);
    if (stop <= first || begin >= end(b)) continue;
    // The last row of b that begins before `stop` is the one that reaches furthest.
    const std::uintptr_t row =
        std::min<std::uintptr_t>((stop - 1 - first) / step, static_cast<std::uintptr_t>(b.rows - 1));
    if (first + row * step + width(b, b.cols) > begin) return true;
  }
  return false;
}

/// Throws ValueError, naming both, when `output` is written while `input`, in the same memory, is
/// still to be read.
template <class T, class U>
void require_apart(const char* output, MatrixView<T> a, const char* input, MatrixView<U> b) {
  if (overlap(a, b)) {
    throw ValueError(std::string(output) + " overlaps " + input +
                     " in memory, expected memory of its own: it is written while " + input +
                     " is still to be read");
  }
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
