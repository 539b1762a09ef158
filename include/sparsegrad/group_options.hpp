// Options, step and reports of a SparseGradGroup.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/float_bits.hpp"
#include "core/number.hpp"
#include "core_optimizer.hpp"
#include "side_recipe.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Which layers share a basis.
enum class BasisScope {
  kind,   ///< all layers of one kind, as in the paper
  layer,  ///< each layer its own
};

/// Recipes of the two sides of a layer's basis.
struct SideRecipes {
  /// Of the out side.
  SideRecipe out = SideRecipe::hosvd();
  /// Of the in side.
  SideRecipe in = SideRecipe::hosvd();
};

/// How the bases of a group are fitted.
struct BasisRecipe {
  /// Which layers share a basis.
  BasisScope scope = BasisScope::kind;
  /// Asked once for each basis to come, with the kind of its (first) layer, when the collection
  /// begins.
  std::function<SideRecipes(const std::string& kind)> sides = [](const std::string&) {
    return SideRecipes{};
  };
  bool normalize = false;                         ///< every gradient enters with norm 1
  index_t gram_limit_bytes = index_t{512} << 20;  ///< a side
};

/// Throws ValueError when the recipe has no function `sides`.
inline void require_recipe(const BasisRecipe& recipe) {
  if (!recipe.sides)
    throw ValueError("the recipe's `sides` is empty, expected a function from a kind to SideRecipes");
}

/// Options of a group whose optimizer has options of this type.
template <class OptimizerOptions>
struct BasicGroupOptions {
  /// Part of a layer's out * in entries to keep; the paper's 28 000 of 768 * 3072 is 1.2 %.
  double density = 0.012;
  /// When positive: kept entries of each layer, in place of the density. 0: the density.
  index_t entries = 0;
  /// Steps at the beginning that change no weight: they collect the gradients to which `recipe`
  /// fits the bases. One step where the recipe needs no gradients. 0: none, the group starts without
  /// a basis, `recipe` is not looked at, and `collect` and `refresh` are the caller's.
  index_t warmup_steps = 0;
  /// How the bases are made.
  BasisRecipe recipe = {};
  /// Of each layer's optimizer; a capacity in it is set by the next option.
  OptimizerOptions optimizer = {};
  /// Room in the optimizer's state for this many times the kept entries; 0: dense state. Not set: 4
  /// (with Overflow::evict_smallest, the optimizers' default; docs/results/default_state.md), or
  /// dense on a BatchedBackend, whose steps with a compact state must wait for the number of its new
  /// entries.
  std::optional<double> capacity_factor = std::nullopt;
  /// What becomes of NaN and Inf in a gradient.
  NonFinite non_finite = NonFinite::raise;
  /// One gradient memory for all SparseGradLinear, which take turns in it: finish layer i by
  /// select(ctx, i), or while only collecting by end_collecting_step(ctx, i), after its backward of
  /// the last micro-batch and before the next layer's first backward, which else throws StateError.
  bool share_gradient_memory = false;
};

/// One optimizer step.
struct GroupStep {
  /// Learning rate, as StepOptions.
  double learning_rate = 1e-4;
  /// Decoupled: W shrinks by learning_rate * weight_decay. Finite and >= 0, the product <= 1.
  double weight_decay = 0;
  /// The gradients are multiplied by it first: loss scale, clipping. As StepOptions; where it takes
  /// kept entries beyond what the optimizer can compute with in the type of the sums (Adam: the root
  /// of its largest number), they are treated as NaN and Inf are.
  double grad_scale = 1;

  /// What the optimizers are given of it.
  StepOptions for_optimizer() const { return {.learning_rate = learning_rate, .grad_scale = grad_scale}; }
};

/// learning_rate * weight_decay. Throws ValueError unless the step's numbers are in range in C, the
/// type of the sums.
template <class C>
double require_decay(const GroupStep& step) {
  core_optimizer::require_numbers<C>(step.for_optimizer());
  if (!is_finite(step.weight_decay) || step.weight_decay < 0) {
    throw ValueError("weight_decay is " + number_text(step.weight_decay) + ", expected a finite number >= 0");
  }
  const double decay = step.learning_rate * step.weight_decay;
  if (!is_finite(decay) || decay > 1) {
    throw ValueError("learning_rate * weight_decay is " + number_text(decay) + ", expected it in [0, 1]");
  }
  return decay;
}

/// What a step did.
struct GroupReport {
  index_t kept = 0;              ///< entries of all sparse gradients
  index_t without_gradient = 0;  ///< layers that had none: nothing of theirs has changed
  index_t became_dense = 0;  ///< optimizer states that went dense in this step, for good (Overflow::go_dense)
  index_t evicted = 0;       ///< entries that optimizer states have forgotten to make room
  /// A step of the warm-up: gradients were collected, no weight has changed.
  bool warming_up = false;
  /// NaN or Inf under NonFinite::skip: no weight and no optimizer state has changed, the gradients
  /// are forgotten, kept is
  /// 0. While collecting, the accumulators have the layers' finite gradients.
  bool skipped = false;
};

/// Bytes by purpose; shared bases are counted once.
struct GroupMemory {
  /// Gradient memory.
  index_t gradients = 0;
  /// Selected entries and updates.
  index_t sparse_gradients = 0;
  /// The optimizers' states.
  index_t optimizer = 0;
  /// Bases, each counted once.
  index_t bases = 0;
  /// Sums from which bases are fitted.
  index_t collection = 0;
  /// The selectors' states.
  index_t selectors = 0;
  index_t scratch = 0;  ///< temporary memory that the context holds for all that computes with it

  /// All of it.
  index_t total() const {
    return gradients + sparse_gradients + optimizer + bases + collection + selectors + scratch;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
