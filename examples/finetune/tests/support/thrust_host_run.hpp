// Runs on Thrust's host system: a file that includes this names the backend first, as `DeviceBackend`.
#pragma once

#include "training/run_device.hpp"

namespace sparsegrad::finetune {

template <>
struct RunDevice<DeviceBackend> {
  using Context = DeviceBackend::Context;
  static Context make_context(const TrainOptions&) { return Context(); }
  static index_t memory_in_use() { return 0; }
  static index_t peak_memory() { return 0; }
  static bool reset_peak() { return false; }
  static void return_freed_memory() {}
};

}  // namespace sparsegrad::finetune
