// Exact top-k selection by magnitude: a sampled threshold and one pass, or radix histograms.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../../core/config.hpp"
#include "context.hpp"
#include "magnitude_bits.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The k largest of x[0, n) by |x|, exactly, ties by lowest index, |NaN| above Inf, -0 equal to 0.
///
/// The usual case reads x once. A sample gives a threshold that slightly more than k entries reach;
/// one pass collects these candidates; radix histograms over the candidates alone find the k-th
/// largest key. Where the sample misleads (ties, sorted or clustered data) the pass stops early,
/// and histograms over all keys, a few bits at a time, close in on the threshold until the
/// candidates fit or only ties are left.
template <class T>
class TopK {
 public:
  static void run(HostContext& ctx, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    if (k <= 0) return;
    if (k >= n) {
      for (index_t i = 0; i < n; ++i) {
        index[i] = static_cast<stored_index_t>(i);
        value[i] = x[i];
      }
      return;
    }
    TopK(ctx, x, n, k).select(index, value);
  }

 private:
  using Bits = MagnitudeBits<T>;
  using Key = typename Bits::Int;
  using Unsigned = std::make_unsigned_t<Key>;

  static constexpr int digit_bits = 11;
  static constexpr index_t buckets = index_t{1} << digit_bits;
  static constexpr index_t lanes = 4;              ///< histograms that one thread counts in
  static constexpr index_t block = 8;              ///< elements whose flags fill a 64-bit word
  static constexpr index_t tile = 4096;            ///< elements flagged at a time
  static constexpr index_t all_candidates = 4096;  ///< up to here every element is a candidate
  static constexpr index_t run_length = 8;         ///< neighbours that one place of the sample reads
  static constexpr index_t sample_size = 32768;

  struct Piece {
    index_t begin = 0;
    index_t end = 0;
    index_t count = 0;  ///< candidates found, or entries above the threshold
    index_t ties = 0;   ///< entries at the threshold
    stored_index_t* index = nullptr;
    Key* key = nullptr;
  };

  TopK(HostContext& ctx, const T* x, index_t n, index_t k)
      : ctx_(ctx), frame_(ctx.scratch()), x_(x), n_(n), k_(k) {
    capacity_ = n <= all_candidates ? n : (std::min)(n, k + k / 2 + 2048);
    piece_count_ = std::clamp<index_t>(n / 65536, 1, ctx.threads());
    pieces_ = frame_.template take<Piece>(piece_count_);
    for (index_t p = 0; p < piece_count_; ++p) {
      Piece piece;
      // Borders on full blocks.
      piece.begin = n / block * p / piece_count_ * block;
      piece.end = p + 1 == piece_count_ ? n : n / block * (p + 1) / piece_count_ * block;
      pieces_[p] = piece;
    }
    histogram_ = frame_.template take<index_t>(buckets * lanes * piece_count_);
  }

  void select(stored_index_t* index, T* value) {
    const bool few = n_ <= all_candidates;
    if (few || k_ <= n_ / 8) {
      room_for_candidates();
      if (collect(few ? Key(0) : sampled_threshold())) return finish(index, value);
    }
    // Keys below low_ are out. Each turn looks at the next digit below `shift`.
    Key low = 0;
    index_t wanted = k_;  // entries still to be chosen among those with the digits of `low`
    for (int shift = key_bits; shift > 0;) {
      const int width = (std::min)(digit_bits, shift);
      const Key mask_above = shift == key_bits ? Key(0) : static_cast<Key>(~((Key(1) << shift) - 1));
      shift -= width;
      count_digits(low, mask_above, shift, width);
      index_t digit = (index_t{1} << width) - 1;
      index_t inside = 0;
      for (; digit > 0; --digit) {
        inside = histogram_[digit];
        if (inside >= wanted) break;
        wanted -= inside;
      }
      low += static_cast<Key>(digit) << shift;
      inside = histogram_[digit];
      if (wanted == inside) break;  // all of the bucket is in: `low` already separates
      if (candidates_ready_ && k_ - wanted + inside <= capacity_ && collect(low)) {
        return finish(index, value);
      }
    }
    emit_at(low, index, value);
  }

  static constexpr int key_bits = static_cast<int>(sizeof(Key)) * 8 - 1;

  void room_for_candidates() {
    for (index_t p = 0; p < piece_count_; ++p) {
      const index_t room = (std::min)(capacity_, pieces_[p].end - pieces_[p].begin) + 2 * block;
      pieces_[p].index = frame_.template take<stored_index_t>(room);
      pieces_[p].key = frame_.template take<Key>(room);
    }
    candidates_ready_ = true;
  }

  /// A key that between k and 1.5 k entries reach, as far as a sample of short runs can tell.
  Key sampled_threshold() {
    const index_t size = (std::min)(sample_size, n_ / 4 / run_length * run_length);
    Scratch::Frame frame(ctx_.scratch());
    Key* sample = frame.template take<Key>(size);
    const index_t places = size / run_length;
    // Odd multiples of a fixed irrational step: no period that a matrix could share.
    index_t filled = 0;
    for (index_t p = 0; p < places; ++p) {
      const index_t apart = n_ / places;
      const auto jitter = static_cast<index_t>((static_cast<std::uint64_t>(p) * 0x9e3779b97f4a7c15ULL) >> 32);
      const index_t start =
          (std::min)(p * apart + jitter % std::max<index_t>(apart - run_length, 1), n_ - run_length);
      for (index_t j = 0; j < run_length; ++j)
        sample[filled++] = Bits::key(x_[start + j]);
    }
    const double density = static_cast<double>(size) / static_cast<double>(n_);
    const double expected = static_cast<double>(k_) * density;
    const auto rank = static_cast<index_t>(expected + 4 * std::sqrt(expected) + 4);
    if (rank >= size) return 0;
    return select_key(sample, size, rank).key;
  }

  struct Selected {
    Key key;         ///< the wanted key
    index_t wanted;  ///< how many of the entries equal to it belong to the selection
  };

  /// The `rank`-th largest (1 <= rank <= count) of keys[0, count), which it reorders.
  Selected select_key(Key* keys, index_t count, index_t rank) {
    Key smallest = (std::numeric_limits<Key>::max)();
    Key largest = 0;
    for (index_t e = 0; e < count; ++e) {
      smallest = (std::min)(smallest, keys[e]);
      largest = (std::max)(largest, keys[e]);
    }
    while (smallest != largest) {
      const auto width = static_cast<int>(std::bit_width(static_cast<Unsigned>(largest - smallest)));
      const int shift = (std::max)(0, width - digit_bits);
      std::fill(histogram_, histogram_ + buckets, index_t{0});
      for (index_t e = 0; e < count; ++e)
        ++histogram_[(keys[e] - smallest) >> shift];
      Key digit = (largest - smallest) >> shift;
      while (histogram_[digit] < rank)
        rank -= histogram_[digit--];
      if (shift == 0) return {static_cast<Key>(smallest + digit), rank};
      const Key origin = smallest;
      smallest = (std::numeric_limits<Key>::max)();
      largest = 0;
      index_t kept = 0;
      for (index_t e = 0; e < count; ++e) {
        const Key key = keys[e];
        const bool in = ((key - origin) >> shift) == digit;
        keys[kept] = key;  // kept <= e
        kept += in ? 1 : 0;
      }
      count = kept;
      for (index_t e = 0; e < count; ++e) {
        smallest = (std::min)(smallest, keys[e]);
        largest = (std::max)(largest, keys[e]);
      }
    }
    return {smallest, rank};
  }

  /// Collects the entries whose key is at least `threshold`; false when they are fewer than k or do
  /// not fit.
  bool collect(Key threshold) {
    ctx_.parallel_for(piece_count_, [&](index_t p) { collect_piece(pieces_[p], threshold); });
    found_ = 0;
    for (index_t p = 0; p < piece_count_; ++p) {
      if (pieces_[p].count < 0) return false;
      found_ += pieces_[p].count;
    }
    return found_ >= k_;
  }

  static std::uint64_t word(const std::uint8_t* bytes) {
    std::uint64_t w;
    std::memcpy(&w, bytes, sizeof w);
    return w;
  }
  /// Calls f(offset) for every byte of the word that is 1, in the order of memory.
  template <class F>
  static void each_byte(std::uint64_t w, F&& f) {
    if constexpr (std::endian::native == std::endian::little) {
      for (; w != 0; w &= w - 1)
        f(std::countr_zero(w) / 8);
    } else {
      for (int shift = 56; shift >= 0; shift -= 8)
        if (((w >> shift) & 1) != 0) f((56 - shift) / 8);
    }
  }

  /// 1 where |x| is above `limit`, else 0.
  static std::uint8_t above(Key limit, const T& x) {
    return static_cast<std::uint8_t>(static_cast<Unsigned>(limit - Bits::of(x)) >> key_bits);
  }

  void collect_piece(Piece& piece, Key threshold) const {
    const Key limit = threshold - 1;
    const T* x = x_;
    stored_index_t* index = piece.index;
    Key* key = piece.key;
    const index_t room = (std::min)(capacity_, piece.end - piece.begin);
    index_t count = 0;
    index_t i = piece.begin;
    piece.count = -1;
    while (i + block <= piece.end) {
      // One byte an element, 1 where |x| reaches the threshold; then the words that are not all
      // zeros; then their bytes. Only the last loop branches on data.
      alignas(16) std::uint8_t reached[tile];
      std::int32_t hit[tile / block];
      const index_t length = (std::min)(tile, (piece.end - i) / block * block);
      index_t j = 0;
      // Of a fixed length, which compilers vectorise at -O2 too.
      constexpr index_t part = 64;
      for (; j + part <= length; j += part) {
        const T* const __restrict from = x + i + j;
        std::uint8_t* const __restrict to = reached + j;
        for (index_t l = 0; l < part; ++l)
          to[l] = above(limit, from[l]);
      }
      for (; j < length; ++j)
        reached[j] = above(limit, x[i + j]);
      index_t hits = 0;
      for (index_t w = 0; w < length / block; ++w) {
        hit[hits] = static_cast<std::int32_t>(w * block);
        hits += word(reached + w * block) != 0 ? 1 : 0;
      }
      for (index_t h = 0; h < hits; ++h) {
        if (count > room) return;
        // Up to a block beyond `room`: the arrays have two blocks to spare.
        each_byte(word(reached + hit[h]), [&](index_t offset) {
          const index_t at = i + hit[h] + offset;
          index[count] = static_cast<stored_index_t>(at);
          key[count] = Bits::key(x[at]);
          ++count;
        });
      }
      i += length;
    }
    if (count > room) return;
    for (; i < piece.end; ++i) {
      const Key bits = Bits::of(x[i]);
      index[count] = static_cast<stored_index_t>(i);
      key[count] = (std::min)(bits, Bits::nan);
      count += bits > limit ? 1 : 0;
    }
    if (count <= room) piece.count = count;
  }

  /// Chooses k of the candidates.
  void finish(stored_index_t* index, T* value) {
    Scratch::Frame frame(ctx_.scratch());
    Key* keys = frame.template take<Key>(found_);
    index_t at = 0;
    for (index_t p = 0; p < piece_count_; ++p) {
      std::copy(pieces_[p].key, pieces_[p].key + pieces_[p].count, keys + at);
      at += pieces_[p].count;
    }
    const Selected cut = select_key(keys, found_, k_);
    index_t ties = cut.wanted;
    index_t out = 0;
    for (index_t p = 0; p < piece_count_; ++p) {
      for (index_t e = 0; e < pieces_[p].count && out < k_; ++e) {
        const Key key = pieces_[p].key[e];
        const bool tie = key == cut.key && ties > 0;
        const bool in = key > cut.key || tie;
        index[out] = pieces_[p].index[e];
        out += in ? 1 : 0;
        ties -= tie ? 1 : 0;
      }
    }
    for (index_t e = 0; e < k_; ++e)
      value[e] = x_[index[e]];
  }

  /// Histogram of the digit of `width` bits at `shift` over the keys that agree with `low` above
  /// it.
  void count_digits(Key low, Key mask_above, int shift, int width) {
    ctx_.parallel_for(piece_count_, [&](index_t p) {
      // Neighbours count in different arrays: equal digits in a row would wait for each other.
      index_t* histogram = histogram_ + p * lanes * buckets;
      std::fill(histogram, histogram + lanes * buckets, index_t{0});
      const Key mask = (Key(1) << width) - 1;
      const auto one = [&](index_t i, index_t lane) {
        const Key key = Bits::key(x_[i]);
        const index_t in = (key & mask_above) == low ? 1 : 0;
        histogram[lane * buckets + ((key >> shift) & mask)] += in;
      };
      index_t i = pieces_[p].begin;
      for (; i + lanes <= pieces_[p].end; i += lanes)
        for (index_t lane = 0; lane < lanes; ++lane)
          one(i + lane, lane);
      for (; i < pieces_[p].end; ++i)
        one(i, 0);
    });
    for (index_t p = 1; p < piece_count_ * lanes; ++p)
      for (index_t d = 0; d < buckets; ++d)
        histogram_[d] += histogram_[p * buckets + d];
  }

  /// Writes every entry above `threshold` and the first of those at it.
  void emit_at(Key threshold, stored_index_t* index, T* value) {
    ctx_.parallel_for(piece_count_, [&](index_t p) {
      index_t above = 0;
      index_t ties = 0;
      for (index_t begin = pieces_[p].begin; begin < pieces_[p].end; begin += tile) {
        const index_t end = (std::min)(begin + tile, pieces_[p].end);
        Key tile_above = 0;  // as wide as the keys, so that the loop vectorises
        Key tile_ties = 0;
        for (index_t i = begin; i < end; ++i) {
          const Key key = Bits::key(x_[i]);
          tile_above += key > threshold ? 1 : 0;
          tile_ties += key == threshold ? 1 : 0;
        }
        above += static_cast<index_t>(tile_above);
        ties += static_cast<index_t>(tile_ties);
      }
      pieces_[p].count = above;
      pieces_[p].ties = ties;
    });
    // A bucket all of which is in lies above its lower edge: then no limit on the ties applies.
    index_t left = k_;
    for (index_t p = 0; p < piece_count_; ++p)
      left -= pieces_[p].count;
    for (index_t p = 0; p < piece_count_; ++p) {
      pieces_[p].ties = (std::min)(pieces_[p].ties, left);
      left -= pieces_[p].ties;
    }
    ctx_.parallel_for(piece_count_, [&](index_t p) {
      index_t out = 0;
      for (index_t before = 0; before < p; ++before)
        out += pieces_[before].count + pieces_[before].ties;
      const index_t end = out + pieces_[p].count + pieces_[p].ties;
      index_t ties = pieces_[p].ties;
      for (index_t i = pieces_[p].begin; out < end; ++i) {
        const Key key = Bits::key(x_[i]);
        const bool tie = key == threshold && ties > 0;
        const bool in = key > threshold || tie;
        index[out] = static_cast<stored_index_t>(i);
        value[out] = x_[i];
        out += in ? 1 : 0;
        ties -= tie ? 1 : 0;
      }
    });
  }

  HostContext& ctx_;
  Scratch::Frame frame_;
  const T* x_;
  index_t n_;
  index_t k_;
  index_t capacity_ = 0;
  index_t piece_count_ = 1;
  index_t found_ = 0;
  bool candidates_ready_ = false;
  Piece* pieces_ = nullptr;
  index_t* histogram_ = nullptr;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
