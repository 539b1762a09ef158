// backend::CpuOneDnn with its classes of float and bfloat16 from the library sparsegrad::compiled, so that a
// unit that uses them compiles none of it. Include it in place of <sparsegrad/backend/cpu_onednn.hpp>, and link
// that library.
#pragma once

#include "../backend/cpu_onednn.hpp"
#include "types.hpp"

SPARSEGRAD_COMPILED_CLASSES(extern, backend::CpuOneDnn)
