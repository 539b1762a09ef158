// The classes of float and bfloat16 on backend::CpuOneDnn.
#include <sparsegrad/compiled/cpu_onednn.hpp>

SPARSEGRAD_COMPILED_CLASSES(, backend::CpuOneDnn)
