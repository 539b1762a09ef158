#pragma once

#include <algorithm>
#include <string>

#include <sparsegrad/core/buffer.hpp>
#include <sparsegrad/core/view.hpp>

#include "models/decoder/decoder_config.hpp"

namespace sparsegrad::finetune {

/// Keys (rotated) and values of one sequence's tokens so far, of every block: what DecoderModel::decode goes on from.
template <class T, class Backend>
class KeyValueCache {
 public:
  using Context = typename Backend::Context;

  /// Room for `capacity` tokens. Throws ModelError when the model has not as many positions.
  KeyValueCache(Context& ctx, const DecoderConfig& config, index_t capacity)
      : layers_(config.layers), cols_(config.kv_cols()), capacity_(capacity) {
    if (capacity < 1 || capacity > config.max_positions) {
      throw ModelError("a cache for " + std::to_string(capacity) + " tokens was asked for, the model has " +
                       std::to_string(config.max_positions) + " positions");
    }
    memory_.resize(ctx, 2 * layers_ * cols_ * capacity_);
  }

  /// Tokens that it holds.
  index_t length() const { return length_; }
  index_t capacity() const { return capacity_; }
  index_t bytes() const { return memory_.bytes(); }
  /// Forgets all tokens but the first `length`: to begin anew, or to go on from a shared beginning.
  void shorten(index_t length) { length_ = std::min(length, length_); }
  /// Holds what `other` holds, of the same model: a beginning that several sequences share. Throws ModelError where its
  /// tokens do not fit.
  void copy_from(Context& ctx, KeyValueCache& other) {
    if (other.length_ > capacity_) {
      throw ModelError("a cache for " + std::to_string(capacity_) + " tokens was to take " +
                       std::to_string(other.length_));
    }
    length_ = other.length_;
    if (length_ == 0) return;
    for (index_t i = 0; i < 2 * layers_; ++i)
      Backend::template copy<T>(ctx, other.at(i).block(0, 0, length_, cols_),
                                at(i).block(0, 0, length_, cols_));
  }

  /// [capacity, kv_cols] of a block; for DecoderModel.
  MatrixView<T> keys(index_t block) { return at(2 * block); }
  MatrixView<T> values(index_t block) { return at(2 * block + 1); }
  void lengthen(index_t tokens) { length_ += tokens; }

 private:
  MatrixView<T> at(index_t number) {
    return MatrixView<T>(memory_.data() + number * capacity_ * cols_, capacity_, cols_);
  }

  Buffer<T, Backend> memory_;
  index_t layers_, cols_, capacity_;
  index_t length_ = 0;
};

}  // namespace sparsegrad::finetune
