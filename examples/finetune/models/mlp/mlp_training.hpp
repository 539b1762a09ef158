// Chooses how a model's MLP matrices are trained.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/sparse_grad_linear.hpp>

#include "models/mlp/constant_matrix.hpp"
#include "models/mlp/lora_matrix.hpp"
#include "models/mlp/meprop_matrix.hpp"
#include "models/mlp/trained_matrix.hpp"
#include "models/mlp/updated_matrix.hpp"

namespace sparsegrad::finetune {

/// How the MLP matrices of a model are trained; all of them alike.
struct MlpTraining {
  bool matrices = true;   ///< false: they are constants, without gradients and without SparseGradLinear
  index_t lora_rank = 0;  ///< with constant matrices, > 0: each has an adapter of this rank
  double lora_scale = 1;
  LoraInit lora_init = LoraInit::kaiming;
  bool sparsely = false;    ///< by updates that are kept beside matrices that stay packed
  double meprop_share = 0;  ///< with trained matrices, > 0: share of each row of their dY that is kept
};

/// The MLP matrices of a model in their order.
template <class T, class Backend>
struct MlpMatrices {
  using Layer = SparseGradLinear<T, Backend>;
  using Update = AccumulatedUpdate<compute_t<T>, Backend>;
  std::deque<Layer> layers;  ///< what optimizers read gradients from; empty when the matrices are constants
  std::deque<std::unique_ptr<Update>>
      updates;  ///< of each layer, where updates are kept beside it, else null
  std::vector<std::unique_ptr<MlpMatrix<T, Backend>>> matrices;

  /// What each keeps in a training pass at present (MlpMatrix::saved_cols).
  std::vector<index_t> saved_cols() const {
    std::vector<index_t> cols;
    for (const auto& matrix : matrices)
      cols.push_back(matrix->saved_cols(true));
    return cols;
  }
};

/// `names` are those of the weights in `parameters`, which must outlive the result. `chosen`, where it is given, says
/// which of them `training` speaks of: the others are constants.
template <class T, class Backend>
MlpMatrices<T, Backend> make_mlp_matrices(typename Backend::Context& ctx, const MlpTraining& training,
                                          ParameterSet<T, Backend>& parameters,
                                          const std::vector<std::string>& names,
                                          const std::vector<bool>& chosen = {}) {
  MlpMatrices<T, Backend> mlp;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string& name = names[i];
    const Parameter<T>& p = parameters.at(name);
    const bool is_chosen = chosen.empty() || chosen[i];
    if (is_chosen && training.matrices && p.packed != nullptr) {
      if constexpr (ThrustBackend<Backend>) {
        (void)FrozenWeight<T, Backend>(p);  // refuses it
      } else {
        using Update = typename MlpMatrices<T, Backend>::Update;
        mlp.layers.emplace_back(ctx, p.rows(), p.cols());
        mlp.updates.push_back(std::make_unique<Update>(p.rows(), p.cols(), mlp.layers.back().rotations()));
        mlp.matrices.push_back(
            std::make_unique<UpdatedMatrix<T, Backend>>(mlp.layers.back(), p, *mlp.updates.back()));
      }
    } else if (is_chosen && training.matrices) {
      mlp.updates.push_back(nullptr);
      if constexpr (is_low_precision<T>) {
        mlp.layers.emplace_back(ctx, p.rounded, p.weight, nullptr);
      } else {
        mlp.layers.emplace_back(ctx, p.weight, nullptr);
      }
      auto& layer = mlp.layers.back();
      if (training.meprop_share > 0) {
        mlp.matrices.push_back(std::make_unique<MepropMatrix<T, Backend>>(layer, training.meprop_share));
      } else {
        mlp.matrices.push_back(std::make_unique<TrainedMatrix<T, Backend>>(layer));
      }
    } else if (is_chosen && training.lora_rank > 0) {
      const std::string matrix = name.substr(0, name.rfind(".weight"));
      mlp.matrices.push_back(std::make_unique<LoraMatrix<T, Backend>>(
          FrozenWeight<T, Backend>(p), parameters.at(matrix + ".lora_A.weight"),
          parameters.at(matrix + ".lora_B.weight"), training.lora_scale));
    } else {
      mlp.matrices.push_back(std::make_unique<ConstantMatrix<T, Backend>>(FrozenWeight<T, Backend>(p)));
    }
  }
  return mlp;
}

}  // namespace sparsegrad::finetune
