#pragma once

namespace sparsegrad::finetune {

/// What the reference's code does differently from the method, each to be switched on for itself, so that its runs can be
/// replicated. (SparseOptions::keep_phase1 is one more.)
struct ReferenceDefects {
  bool transposed_basis = false;   ///< U^T in place of U: the input side is rotated, and nothing compacted
  bool rotated_bias = false;       ///< the biases of the MLP matrices get V^T db in place of db
  bool frozen_layer_norm = false;  ///< LayerNorms do not train
  bool signed_selection = false;   ///< the k-th largest signed entry is the threshold of the absolute values

  bool any() const { return transposed_basis || rotated_bias || frozen_layer_norm || signed_selection; }
};

}  // namespace sparsegrad::finetune
