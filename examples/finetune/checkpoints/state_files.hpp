// Names of the files of a run's state.
#pragma once

#include <filesystem>

namespace sparsegrad::finetune {

/// The state that was whole before the last one.
inline std::filesystem::path previous_state(std::filesystem::path state) {
  return state += ".previous";
}

/// Where a state is written before it is checked and gets its name.
inline std::filesystem::path unchecked_state(std::filesystem::path state) {
  return state += ".new";
}

/// A state that failed its hash, out of the way of the good ones.
inline std::filesystem::path torn_state(std::filesystem::path state) {
  return state += ".torn";
}

}  // namespace sparsegrad::finetune
