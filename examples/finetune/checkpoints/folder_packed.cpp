#include "checkpoints/folder_packed.hpp"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/decoder_folder.hpp"
#include "checkpoints/gguf_blocks.hpp"

namespace sparsegrad::finetune {
namespace {

class FolderMatrix final : public PackedMatrix {
 public:
  FolderMatrix(std::shared_ptr<const ModelWeights> weights, io::Tensor tensor, const GgufType& type)
      : weights_(std::move(weights)), tensor_(std::move(tensor)), type_(type) {}

  index_t rows() const override { return tensor_.shape[0]; }
  index_t cols() const override { return tensor_.shape[1]; }
  index_t block() const override { return 1; }
  std::span<const std::byte> bytes() const override { return tensor_.bytes; }
  void require_whole() const override { weights_->require_whole(tensor_); }
  void read(index_t row, index_t first, index_t last, float* values) const override {
    const auto size = static_cast<std::size_t>(type_.block_bytes);
    const auto count = static_cast<std::size_t>(last - first);
    const std::size_t at = static_cast<std::size_t>(row * cols() + first) * size;
    dequantize_blocks(type_, tensor_.bytes.subspan(at, count * size), {values, count});
  }

 private:
  std::shared_ptr<const ModelWeights> weights_;
  io::Tensor tensor_;
  const GgufType& type_;
};

}  // namespace

std::shared_ptr<const PackedMatrix> folder_packed(std::shared_ptr<const ModelWeights> weights,
                                                  std::string_view parameter, index_t rows, index_t cols) {
  const std::string name = decoder_tensor(*weights, std::string(parameter));
  io::Tensor tensor = weights->find(name, std::vector<index_t>{rows, cols});
  switch (tensor.dtype) {
    case io::DType::f32:
      return std::make_shared<FolderMatrix>(std::move(weights), std::move(tensor), gguf_type("F32"));
    case io::DType::f16:
      return std::make_shared<FolderMatrix>(std::move(weights), std::move(tensor), gguf_type("F16"));
    case io::DType::bf16:
      return std::make_shared<FolderMatrix>(std::move(weights), std::move(tensor), gguf_type("BF16"));
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
