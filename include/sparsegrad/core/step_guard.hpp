// StepGuard, StepFlag: how kernels skip a step with NaN or Inf, and report it, while the host does
// not wait.
#pragma once

#include <cstdint>
#include <string>

#include "config.hpp"
#include "error.hpp"
#include "host_device.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Numbers in the backend's memory by which the kernels of a group's step know whether to change
/// anything. They are 0 at first. Where `word` is null, every step is taken.
struct StepGuard {
  static constexpr index_t words = 3;  ///< how many numbers
  std::uint32_t* word = nullptr;       ///< the numbers, in the backend's memory; may be null

  /// Mark of the first array with NaN or Inf in this step, 0 for none; the largest mark is that of
  /// the first array.
  SPARSEGRAD_HOST_DEVICE std::uint32_t& bad() const { return word[0]; }
  /// Not 0 while the present step is to change nothing.
  SPARSEGRAD_HOST_DEVICE std::uint32_t& stopped() const { return word[1]; }
  /// Number of steps skipped since the host last asked.
  SPARSEGRAD_HOST_DEVICE std::uint32_t& skipped() const { return word[2]; }

  /// Mark of the array of this number.
  SPARSEGRAD_HOST_DEVICE static std::uint32_t mark(std::uint32_t number) { return UINT32_MAX - number; }
  /// Whether the present step is to change nothing.
  SPARSEGRAD_HOST_DEVICE bool stops() const { return word != nullptr && stopped() != 0; }
};

/// What those kernels report to the host, in memory that both can reach: the first layer that met
/// NaN or Inf under NonFinite::raise. Steps of its group change nothing from then on until the host
/// has called `raise`.
struct StepFlag {
  static constexpr std::uint32_t none = UINT32_MAX;  ///< no layer
  volatile std::uint32_t layer = none;               ///< number of that layer

  /// Whether a layer has been reported.
  SPARSEGRAD_HOST_DEVICE bool raised() const { return layer != none; }
  /// Throws NonFiniteError when a layer has been reported, and forgets it.
  void raise() {
    const std::uint32_t found = layer;
    if (found == none) return;
    layer = none;
    throw NonFiniteError(
        "the core gradient of layer or weight " + std::to_string(found) +
        " of a group holds NaN or Inf; expected finite numbers. That step and those after it have "
        "changed nothing");
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
