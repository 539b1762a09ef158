// FullPrecision: a scope in which products of float are computed in float.
#pragma once

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Scope in which a context computes products of float in float, even where it may use TF32 for
/// those of layers.
///
/// Everything that a basis is computed from uses it. It does nothing for contexts without reduced
/// precision.
template <class Context>
class FullPrecision {
 public:
  /// Turns full precision on.
  explicit FullPrecision(Context& ctx) : ctx_(ctx) {
    if constexpr (reduces) before_ = ctx_.full_precision(true);
  }
  ~FullPrecision() {
    if constexpr (reduces) ctx_.full_precision(before_);
  }
  /// Not copyable.
  FullPrecision(const FullPrecision&) = delete;
  /// Not copyable.
  FullPrecision& operator=(const FullPrecision&) = delete;

 private:
  static constexpr bool reduces = requires(Context & ctx, bool on) { ctx.full_precision(on); };

  Context& ctx_;
  bool before_ = true;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
