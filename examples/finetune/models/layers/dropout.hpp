#pragma once

#include <cstdint>

#include "random.hpp"

namespace sparsegrad::finetune {

/// Inverted dropout: each element is set to 0 with probability p and otherwise multiplied by 1 / (1 - p).
/// The mask is a function of (key, row, column), so backward makes it again in place of storing it, and the
/// number of threads cannot change it.
template <class T>
struct Dropout {
  std::uint64_t key = 0;
  std::int32_t threshold = 0;  ///< of 2^31; 0: off
  T scale = 1;

  Dropout() = default;
  Dropout(double probability, std::uint64_t stream)
      : key(stream),
        threshold(static_cast<std::int32_t>(probability * 0x1.0p31)),
        scale(threshold > 0 ? static_cast<T>(1.0 / (1.0 - probability)) : T(1)) {}

  SPARSEGRAD_HOST_DEVICE bool on() const { return threshold > 0; }

  /// What an element with these random bits is multiplied by.
  SPARSEGRAD_HOST_DEVICE static T multiplier(std::uint32_t bits, std::int32_t below, T kept) {
    return bits < 2 * static_cast<std::uint32_t>(below) ? T(0) : kept;
  }

  /// Multipliers of one row.
  struct Row {
    std::uint64_t key;
    std::int32_t threshold;
    T scale;
    SPARSEGRAD_HOST_DEVICE T at(index_t column) const {
      return multiplier(bits_at(key, static_cast<std::uint32_t>(column)), threshold, scale);
    }
  };
  SPARSEGRAD_HOST_DEVICE Row row(index_t number) const {
    return {stream_key(key, static_cast<std::uint64_t>(number)), threshold, scale};
  }
};

/// The key of a place in the model in one forward pass.
inline std::uint64_t dropout_stream(std::uint64_t pass_key, index_t layer, int site) {
  return stream_key(pass_key, static_cast<std::uint64_t>(layer) * 8 + static_cast<std::uint64_t>(site));
}

}  // namespace sparsegrad::finetune
