// The float classes on backend::CpuOneDnn.
#include <sparsegrad/compiled/cpu_onednn.hpp>

SPARSEGRAD_COMPILED_CLASSES(, backend::CpuOneDnn)
