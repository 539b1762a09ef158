// StepGuard, StepFlag: how the kernels of a step learn, and tell, that it must not be taken, while the host does not wait.
#pragma once

#include <cstdint>
#include <string>

#include "config.hpp"
#include "error.hpp"
#include "host_device.hpp"

namespace sparsegrad {

/// What the kernels of a group's steps ask before they change anything: `words` numbers in the backend's memory, all 0 at
/// first. No memory: every step is taken.
struct StepGuard {
  static constexpr index_t words = 3;
  std::uint32_t* word = nullptr;

  /// Of the arrays looked at for this step, the first with NaN or Inf: UINT32_MAX minus its number, so that the largest
  /// mark is the first array's; 0: none.
  SPARSEGRAD_HOST_DEVICE std::uint32_t& bad() const { return word[0]; }
  /// Not 0: the present step changes nothing.
  SPARSEGRAD_HOST_DEVICE std::uint32_t& stopped() const { return word[1]; }
  /// Steps that changed nothing since the host last asked.
  SPARSEGRAD_HOST_DEVICE std::uint32_t& skipped() const { return word[2]; }

  SPARSEGRAD_HOST_DEVICE static std::uint32_t mark(std::uint32_t number) { return UINT32_MAX - number; }
  /// Whether what belongs to the present step is to be skipped.
  SPARSEGRAD_HOST_DEVICE bool stops() const { return word != nullptr && stopped() != 0; }
};

/// What those kernels tell the host, in memory that both reach: the first layer that met NaN or Inf under
/// NonFinite::raise. Steps of its group change nothing from then on until the host has taken note.
struct StepFlag {
  static constexpr std::uint32_t none = UINT32_MAX;
  volatile std::uint32_t layer = none;

  SPARSEGRAD_HOST_DEVICE bool raised() const { return layer != none; }
  /// Throws NonFiniteError where it is raised, and lowers it.
  void raise() {
    const std::uint32_t found = layer;
    if (found == none) return;
    layer = none;
    throw NonFiniteError(
        "the core gradient of layer " + std::to_string(found) +
        " of a group holds NaN or Inf; expected finite numbers. That step and those after it have "
        "changed nothing");
  }
};

}  // namespace sparsegrad
