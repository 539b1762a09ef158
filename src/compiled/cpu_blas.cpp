// The classes of float and bfloat16 on backend::CpuBlas.
#include <sparsegrad/compiled/cpu_blas.hpp>

SPARSEGRAD_COMPILED_CLASSES(, backend::CpuBlas)
