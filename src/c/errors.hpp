// Exceptions as statuses: what keeps them inside the library.
#pragma once

#include <utility>

#include <sparsegrad/c/sparsegrad.h>

namespace sparsegrad::c {

/// Keeps the text of the exception that is being handled for this thread; returns its status.
sparsegrad_status keep_error() noexcept;

/// Calls f; returns what came of it.
template <class F>
sparsegrad_status guard(F&& f) noexcept {
  try {
    std::forward<F>(f)();
    return SPARSEGRAD_OK;
  } catch (...) {
    return keep_error();
  }
}

}  // namespace sparsegrad::c
