#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <sparsegrad/core/buffer.hpp>

#include "models/layers/adamw_coefficients.hpp"

namespace sparsegrad::finetune {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

/// torch.optim.AdamW on any number of separate arrays, in one pass over each: with g the scaled gradient,
///     w <- (1 - lr decay) w
///     m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
///     w <- w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// Weights, gradients and moments are in C = compute_t<T>; a narrow T is that of the weights' rounded copies.
template <class T, class Backend>
class AdamW {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;

  /// An array to train. The pointers must outlive the optimizer; `gradient` is read at each step.
  struct Segment {
    std::string name;
    C* weight = nullptr;
    C* gradient = nullptr;
    index_t count = 0;
    double weight_decay = 0;
    T* rounded = nullptr;  ///< of a narrow T: where each step puts the rounded weight, or null
  };

  AdamW(Context& ctx, std::vector<Segment> segments, AdamWOptions options = {});

  struct Step {
    double learning_rate = 0;
    double grad_scale = 1;         ///< multiplies every gradient first
    bool clear_gradients = false;  ///< leaves zeros behind, which saves a pass
  };
  void step(Context& ctx, const Step& step);

  /// Square root of the sum of squares of all gradients, in double; the same bits for any number of threads.
  double gradient_norm(Context& ctx) const;

  const std::vector<Segment>& segments() const { return segments_; }
  /// Another place for a segment's gradient, which has moved.
  void set_gradient(std::size_t segment, C* gradient) { segments_[segment].gradient = gradient; }

  index_t steps() const { return steps_; }
  /// Back to the state after construction.
  void reset(Context& ctx);
  index_t state_bytes() const { return first_.bytes() + second_.bytes(); }

  /// The state, for files: (name, array) of "step" apart; moments concatenated in the order of the segments.
  MatrixView<C> first_moments() { return first_.matrix(1, first_.size()); }
  MatrixView<C> second_moments() { return second_.matrix(1, second_.size()); }
  /// Also says that the moments are others now.
  void set_steps(index_t steps) {
    steps_ = steps;
    forget_states();
  }

 private:
  struct Place {
    std::size_t segment;
    index_t begin;
  };
  void forget_states() { std::fill(states_.begin(), states_.end(), MomentsState::unknown); }
  /// Makes the pieces' gradients those of the segments, which may have moved.
  void find_gradients() const;

  std::vector<Segment> segments_;
  mutable std::vector<AdamWPiece<T>> pieces_;
  std::vector<Place> places_;  ///< a piece
  mutable std::vector<double> sums_;
  std::vector<MomentsState> states_;  ///< on the CPU: of the blocks of all pieces
  AdamWOptions options_;
  Buffer<C, Backend> first_;
  Buffer<C, Backend> second_;
  index_t steps_ = 0;
};

/// The factor that brings a global norm to at most `max_norm`, as torch.nn.utils.clip_grad_norm_.
inline double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor < 1 ? factor : 1;
}

}  // namespace sparsegrad::finetune
