// backend::Cpu with its classes of float and bfloat16 from the library sparsegrad::compiled, so that a
// unit that uses them compiles none of it. Include it in place of <sparsegrad/backend/cpu.hpp>, and link
// that library.
#pragma once

#include "../backend/cpu.hpp"
#include "types.hpp"

SPARSEGRAD_COMPILED_CLASSES(extern, backend::Cpu)
