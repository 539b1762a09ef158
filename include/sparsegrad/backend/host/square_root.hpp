// Square roots of an array.
#pragma once

#include <cmath>
#include <type_traits>

#include "../../core/config.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// x[i] = sqrt(x[i]), correctly rounded. Written with vector instructions where there are such:
/// std::sqrt may have to set errno, which keeps compilers from vectorising a loop over it.
template <class T>
void square_roots(T* x, index_t n) {
  index_t i = 0;
#if defined(__AVX__)
  if constexpr (std::is_same_v<T, float>) {
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(x + i, _mm256_sqrt_ps(_mm256_loadu_ps(x + i)));
  } else if constexpr (std::is_same_v<T, double>) {
    for (; i + 4 <= n; i += 4)
      _mm256_storeu_pd(x + i, _mm256_sqrt_pd(_mm256_loadu_pd(x + i)));
  }
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) {
    for (; i + 4 <= n; i += 4)
      _mm_storeu_ps(x + i, _mm_sqrt_ps(_mm_loadu_ps(x + i)));
  } else if constexpr (std::is_same_v<T, double>) {
    for (; i + 2 <= n; i += 2)
      _mm_storeu_pd(x + i, _mm_sqrt_pd(_mm_loadu_pd(x + i)));
  }
#endif
  for (; i < n; ++i)
    x[i] = std::sqrt(x[i]);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
