// Marks functions that kernels call: nvcc compiles them for both sides, other compilers see
// nothing.
#pragma once

#if defined(__CUDACC__)
#define SPARSEGRAD_HOST_DEVICE __host__ __device__
#else
#define SPARSEGRAD_HOST_DEVICE
#endif
