#include "train/reference_defects.hpp"

#include <map>

namespace sparsegrad::glue {

void transpose_input_sides(GlueContext& ctx, SparseGroup& group) {
  std::map<const void*, std::shared_ptr<const SparseGroup::Basis>> made;
  for (index_t i = 0; i < group.size(); ++i) {
    const auto fitted = group.layer(i).basis();
    auto& transposed = made[fitted.get()];
    if (transposed == nullptr) transposed = fitted->with_transposed_input(ctx);
    group.set_basis(ctx, i, transposed);
  }
}

void rotate_bias_gradients(GlueContext& ctx, Model& model) {
  std::vector<float> rotated;
  index_t number = 0;
  for (const Model::MlpLayer& layer : model.mlp()) {
    std::string name = model.mlp_name(number++);
    name.replace(name.rfind("weight"), 6, "bias");
    const Parameter<float>& bias = model.parameters().at(name);
    const auto& side = layer.basis()->out();
    if (bias.gradient.empty() || !side.rotates()) continue;
    const MatrixView<float> db(bias.gradient.data, 1, bias.gradient.size());
    rotated.resize(static_cast<std::size_t>(db.cols));
    const MatrixView<float> target(rotated.data(), 1, db.cols);
    side.project_columns(ctx, db, target);
    backend::CpuBlas::copy<float>(ctx, target, db);
  }
}

}  // namespace sparsegrad::glue
