// FullPrecision: a scope whose products are not to be rounded more than their type rounds.
#pragma once

namespace sparsegrad {

/// While it lives, float products of the context are float's, also where the context was allowed to compute those of
/// layers in less (TF32 on a GPU): for all that a basis rests on. A context that knows no such thing is left alone.
template <class Context>
class FullPrecision {
 public:
  explicit FullPrecision(Context& ctx) : ctx_(ctx) {
    if constexpr (reduces) before_ = ctx_.full_precision(true);
  }
  ~FullPrecision() {
    if constexpr (reduces) ctx_.full_precision(before_);
  }
  FullPrecision(const FullPrecision&) = delete;
  FullPrecision& operator=(const FullPrecision&) = delete;

 private:
  static constexpr bool reduces = requires(Context & ctx, bool on) { ctx.full_precision(on); };

  Context& ctx_;
  bool before_ = true;
};

}  // namespace sparsegrad
