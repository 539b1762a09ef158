#include "checkpoints/weight_change.hpp"

#include <algorithm>
#include <utility>

#include <Eigen/Core>

#include "checkpoints/adapter_reader.hpp"
#include "checkpoints/delta_file.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

class LoraChange final : public WeightChange {
 public:
  explicit LoraChange(Adapter adapter) : adapter_(std::move(adapter)) {}

  std::string text() const override {
    return "LoRA of rank " + std::to_string(adapter_.rank) + " beside " +
           std::to_string(adapter_.matrices.size()) + " matrices";
  }
  bool changes(std::string_view parameter) const override { return find(parameter) != nullptr; }
  void apply(std::string_view parameter, std::span<float> values) const override {
    using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const AdapterMatrix* m = find(parameter);
    if (m == nullptr) return;
    const auto [out, in] = m->extents;
    const Eigen::Map<const RowMajor> a(m->a.data(), adapter_.rank, in);
    const Eigen::Map<const RowMajor> b(m->b.data(), out, adapter_.rank);
    Eigen::Map<RowMajor>(values.data(), out, in).noalias() += static_cast<float>(adapter_.scale) * b * a;
  }

 private:
  const AdapterMatrix* find(std::string_view parameter) const {
    const auto& all = adapter_.matrices;
    const auto found = std::find_if(all.begin(), all.end(), [&](const AdapterMatrix& m) {
      return matrix_name(m.block, m.kind) == parameter;
    });
    return found == all.end() ? nullptr : &*found;
  }

  Adapter adapter_;
};

class DeltaChange final : public WeightChange {
 public:
  DeltaChange(Delta delta, std::string source) : delta_(std::move(delta)), source_(std::move(source)) {}

  std::string text() const override {
    return "delta of " + std::to_string(delta_.parameters.size()) + " parameters";
  }
  bool changes(std::string_view parameter) const override { return delta_.parameters.contains(parameter); }
  bool reads(std::string_view parameter) const override { return delta_.base.contains(parameter); }
  void apply(std::string_view parameter, std::span<float> values) const override {
    apply_delta(delta_, parameter, values, source_);
  }

 private:
  Delta delta_;
  std::string source_;
};

}  // namespace

std::unique_ptr<WeightChange> read_weight_change(const fs::path& path, const DecoderConfig& config) {
  std::error_code code;
  if (fs::is_regular_file(path, code) && is_delta(path)) {
    const auto shapes = decoder_shapes(config, {}, 0);
    return std::make_unique<DeltaChange>(read_delta(path, shapes), path.string());
  }
  return std::make_unique<LoraChange>(read_adapter(path, config));
}

}  // namespace sparsegrad::finetune
