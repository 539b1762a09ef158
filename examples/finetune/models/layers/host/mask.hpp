#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <type_traits>

#include "../dropout.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// A row of a dropout mask for loops over packs (see for_packs).
template <class T>
struct MaskRow {
  typename Dropout<T>::Row row;

  /// 0, 1, 2, ...: a constant, as compilers make such a vector one lane after the other.
  static constexpr auto lane_numbers = [] {
    std::array<std::uint32_t, Simd<float>::width> numbers{};
    for (std::size_t l = 0; l < numbers.size(); ++l)
      numbers[l] = static_cast<std::uint32_t>(l);
    return numbers;
  }();

  T operator()(ElementAt<T> at) const { return row.at(at.j); }
  Pack<T> operator()(PackAt<T> at) const {
    Pack<T> multipliers = Pack<T>{} + row.scale;
    if constexpr (std::is_same_v<T, float>) {
      using Words = detail::WordPack;
      const Words columns = std::bit_cast<Words>(lane_numbers) + static_cast<std::uint32_t>(at.j);
      const Words dropped = (bits_at(row.key, columns) >> 1) - static_cast<std::uint32_t>(row.threshold);
      // Both are below 2^31: the difference is negative, bit 31, exactly when bits < threshold.
      const Words kept = (dropped >> 31) - 1U;
      return std::bit_cast<Pack<T>>(std::bit_cast<Words>(multipliers) & kept);
    } else {
      for (int l = 0; l < Simd<T>::width; ++l)
        multipliers[l] = row.at(at.j + l);
      return multipliers;
    }
  }
};

template <class T>
MaskRow<T> mask_row(const Dropout<T>& dropout, index_t number) {
  return {dropout.row(number)};
}

}  // namespace sparsegrad::finetune
