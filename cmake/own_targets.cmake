# Flags of the project's own executables and tests. Never exported, never on the library's targets.

set(sparsegrad_warning_flags -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow)

# g++ 12 sees overlapping copies in `"text" + std::string` where there are none (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND sparsegrad_warning_flags -Wno-restrict)
  # Its AVX-512 intrinsics start from undefined vectors, which it then reports (GCC bug 105593).
  list(APPEND sparsegrad_warning_flags -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

if(SPARSEGRAD_WERROR)
  list(APPEND sparsegrad_warning_flags -Werror)
endif()
add_library(sparsegrad_warnings INTERFACE)
# nvcc has no such flags, and its host compiler warns about CUB's own code.
target_compile_options(sparsegrad_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${sparsegrad_warning_flags}>")

# -march changes the alignment that Eigen assumes, so all objects of one build share it through this target.
add_library(sparsegrad_own INTERFACE)
target_link_libraries(sparsegrad_own INTERFACE sparsegrad_warnings)
if(SPARSEGRAD_NATIVE_ARCH)
  target_compile_options(sparsegrad_own INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-march=native>" "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-march=native>")
endif()

foreach(dependency Eigen3::Eigen CBLASLAPACKE::CBLASLAPACKE nlohmann_json::nlohmann_json)
  if(NOT TARGET ${dependency})
    message(FATAL_ERROR
      "sparsegrad: ${dependency} not found; tests, examples and benchmarks need it. scripts/setup.sh installs "
      "everything on Debian, or switch off SPARSEGRAD_BUILD_TESTS, _EXAMPLES and _BENCHMARKS")
  endif()
endforeach()
