// SPARSEGRAD_ABI: an inline namespace for all names of the library, `inline v0_1_0_fast_avx2` say. Of functions that
// have the same name a linker keeps one. With version and flags in the name, two libraries of one program that were
// compiled differently keep each their own.
#pragma once

#include <cstddef>  // the standard library's macros

#include "../version.hpp"

// SPARSEGRAD_COMPILED: a unit calls code of the library sparsegrad::compiled, whatever -ffast-math and -march say in the
// unit.
#if defined(SPARSEGRAD_COMPILED)
#define SPARSEGRAD_ABI_MATH _compiled
#elif defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || (__FINITE_MATH_ONLY__ + 0) > 0
#define SPARSEGRAD_ABI_MATH _fast
#else
#define SPARSEGRAD_ABI_MATH
#endif

// Another processor's instructions may not be there. SPARSEGRAD_VECTORS is the inline namespace of the host's kernels:
// functions that pass vectors or panels to each other must agree on their width, also beside sparsegrad::compiled.
#if defined(__AVX512F__)
#define SPARSEGRAD_ABI_VECTORS _avx512
#define SPARSEGRAD_VECTORS inline avx512
#elif defined(__AVX2__)
#define SPARSEGRAD_ABI_VECTORS _avx2
#define SPARSEGRAD_VECTORS inline avx2
#elif defined(__AVX__)
#define SPARSEGRAD_ABI_VECTORS _avx
#define SPARSEGRAD_VECTORS inline avx
#else
#define SPARSEGRAD_ABI_VECTORS
#define SPARSEGRAD_VECTORS inline baseline
#endif
#if defined(SPARSEGRAD_COMPILED)
#undef SPARSEGRAD_ABI_VECTORS
#define SPARSEGRAD_ABI_VECTORS
#endif

// Members of the standard library's types.
#if defined(_LIBCPP_VERSION)
#define SPARSEGRAD_ABI_LIBRARY _libcxx
#elif defined(_GLIBCXX_DEBUG)
#define SPARSEGRAD_ABI_LIBRARY _debug
#elif defined(_GLIBCXX_USE_CXX11_ABI) && _GLIBCXX_USE_CXX11_ABI == 0
#define SPARSEGRAD_ABI_LIBRARY _cxx03
#else
#define SPARSEGRAD_ABI_LIBRARY
#endif

#define SPARSEGRAD_ABI_JOIN(major, minor, patch, math, vectors, library) \
  inline v##major##_##minor##_##patch##math##vectors##library
#define SPARSEGRAD_ABI_EXPAND(major, minor, patch, math, vectors, library) \
  SPARSEGRAD_ABI_JOIN(major, minor, patch, math, vectors, library)
#define SPARSEGRAD_ABI                                                                                \
  SPARSEGRAD_ABI_EXPAND(SPARSEGRAD_VERSION_MAJOR, SPARSEGRAD_VERSION_MINOR, SPARSEGRAD_VERSION_PATCH, \
                        SPARSEGRAD_ABI_MATH, SPARSEGRAD_ABI_VECTORS, SPARSEGRAD_ABI_LIBRARY)
