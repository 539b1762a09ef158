#include "checkpoints/folder_packed.hpp"

#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/core/low_precision.hpp>

#include "checkpoints/decoder_folder.hpp"

namespace sparsegrad::finetune {
namespace {

template <class X>
class FolderMatrix final : public PackedMatrix {
 public:
  FolderMatrix(std::shared_ptr<const ModelWeights> weights, io::Tensor tensor)
      : weights_(std::move(weights)), tensor_(std::move(tensor)) {}

  index_t rows() const override { return tensor_.shape[0]; }
  index_t cols() const override { return tensor_.shape[1]; }
  index_t block() const override { return 1; }
  std::span<const std::byte> bytes() const override { return tensor_.bytes; }
  void require_whole() const override { weights_->require_whole(tensor_); }
  void read(index_t row, index_t first, index_t last, float* values) const override {
    // Not aligned for an X.
    const std::byte* at = tensor_.bytes.data() + static_cast<std::size_t>(row * cols() + first) * sizeof(X);
    for (index_t i = 0; i < last - first; ++i) {
      X x;
      std::memcpy(&x, at + static_cast<std::size_t>(i) * sizeof(X), sizeof(X));
      values[i] = static_cast<float>(x);
    }
  }

 private:
  std::shared_ptr<const ModelWeights> weights_;
  io::Tensor tensor_;
};

}  // namespace

std::shared_ptr<const PackedMatrix> folder_packed(std::shared_ptr<const ModelWeights> weights,
                                                  std::string_view parameter, index_t rows, index_t cols) {
  const std::string name = decoder_tensor(*weights, std::string(parameter));
  io::Tensor tensor = weights->find(name, std::vector<index_t>{rows, cols});
  switch (tensor.dtype) {
    case io::DType::f32:
      return std::make_shared<FolderMatrix<float>>(std::move(weights), std::move(tensor));
    case io::DType::f16:
      return std::make_shared<FolderMatrix<float16>>(std::move(weights), std::move(tensor));
    case io::DType::bf16:
      return std::make_shared<FolderMatrix<bfloat16>>(std::move(weights), std::move(tensor));
    default:
      return nullptr;
  }
}

void require_finite(const ModelWeights& weights, std::string_view name, const PackedMatrix& packed) {
  packed.require_whole();
  std::vector<float> row(static_cast<std::size_t>(packed.cols()));
  for (index_t i = 0; i < packed.rows(); ++i) {
    packed.read(i, 0, packed.cols(), row.data());
    weights.require_finite(name, std::span<const float>(row), i * packed.cols());
  }
}

}  // namespace sparsegrad::finetune
