#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../dropout.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Dropout's multipliers of those bits.
inline Pack<float> kept_multipliers(WordPack bits, std::int32_t threshold, float scale) {
  const WordPack dropped = (bits >> 1) - static_cast<std::uint32_t>(threshold);
  // Both are below 2^31: the difference is negative, bit 31, exactly when bits < threshold.
  const WordPack kept = (dropped >> 31) - 1U;
  return std::bit_cast<Pack<float>>(std::bit_cast<WordPack>(Pack<float>{} + scale) & kept);
}

}  // namespace detail

/// A row of a dropout mask for loops over packs (see for_packs).
template <class T>
struct MaskRow {
  typename Dropout<T>::Row row;

  T operator()(ElementAt<T> at) const { return row.at(at.j); }
  Pack<T> operator()(PackAt<T> at) const {
    if constexpr (std::is_same_v<T, float>) {
      const detail::WordPack columns = lane_numbers<std::uint32_t>() + static_cast<std::uint32_t>(at.j);
      return detail::kept_multipliers(bits_at(row.key, columns), row.threshold, row.scale);
    } else {
      Pack<T> multipliers;
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

/// Up to `most` rows of a dropout mask, for vectors whose lanes are rows.
template <class T, index_t most>
class MaskColumns {
  static constexpr index_t width = Simd<T>::width;

 public:
  /// Of the rows `first`, first + 1, ...; lanes beyond them may hold anything.
  MaskColumns(const Dropout<T>& dropout, index_t first, index_t rows)
      : threshold_(dropout.threshold), scale_(dropout.scale) {
    for (index_t i = 0; i < rows; ++i) {
      const std::uint64_t key = dropout.row(first + i).key;
      low_[i] = static_cast<std::uint32_t>(key);
      high_[i] = static_cast<std::uint32_t>(key >> 32);
    }
    std::fill(low_ + rows, low_ + Simd<T>::round_up(rows), 0U);
    std::fill(high_ + rows, high_ + Simd<T>::round_up(rows), 0U);
  }

  /// The multipliers of a column, of the rows first + lane, first + lane + 1, ...
  Pack<T> operator()(index_t column, index_t lane) const {
    const auto number = static_cast<std::uint32_t>(column);
    if constexpr (std::is_same_v<T, float>) {
      detail::WordPack low, high;
      std::memcpy(&low, low_ + lane, sizeof low);
      std::memcpy(&high, high_ + lane, sizeof high);
      return detail::kept_multipliers(bits_at(low, high, number), threshold_, scale_);
    } else {
      Pack<T> multipliers;
      for (index_t l = 0; l < width; ++l) {
        const std::uint32_t bits = bits_at(low_[lane + l], high_[lane + l], number);
        multipliers[l] = Dropout<T>::multiplier(bits, threshold_, scale_);
      }
      return multipliers;
    }
  }

 private:
  std::uint32_t low_[most];
  std::uint32_t high_[most];
  std::int32_t threshold_;
  T scale_;
};

}  // namespace sparsegrad::finetune
