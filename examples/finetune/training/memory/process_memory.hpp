// Memory of this process as the system counts it.
#pragma once

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

struct ProcessMemory {
  index_t resident = 0;  ///< bytes in physical memory now
  index_t peak = 0;      ///< the most since the start, or since reset_peak_memory
};

/// Zeros where the system does not tell.
ProcessMemory process_memory();

/// Bytes that the system, the control group and the limit on the address space could still give, the least of them; 0
/// where none of them tells.
index_t available_memory();

/// Lets the peak start anew at the present size. False where the system does not allow it: the peak is then that of the
/// process's whole life.
bool reset_peak_memory();

/// Makes memory that is freed go back to the system at once, so that what is measured is what is in use.
void return_freed_memory();

}  // namespace sparsegrad::finetune
