#include "checkpoints/gguf_packed.hpp"

#include <string>
#include <vector>

#include "checkpoints/gguf_model.hpp"
#include "models/model_error.hpp"

namespace sparsegrad::finetune {
namespace {

class GgufMatrix final : public PackedMatrix {
 public:
  /// `head`: the rows of a head, whose halves are interleaved; 0: they are not.
  GgufMatrix(const GgufFile& file, const GgufTensor& tensor, index_t head)
      : file_(file),
        tensor_(tensor),
        row_bytes_(tensor.cols() / tensor.type->block * tensor.type->block_bytes),
        head_(head) {}

  index_t rows() const override { return tensor_.rows(); }
  index_t cols() const override { return tensor_.cols(); }
  index_t block() const override { return tensor_.type->block; }
  std::span<const std::byte> bytes() const override { return tensor_.bytes; }
  void require_whole() const override { file_.require_whole(tensor_); }
  void read(index_t row, index_t first, index_t last, float* values) const override {
    const GgufType& type = *tensor_.type;
    if (head_ > 0) row = stored_row(row, head_);
    const auto at = static_cast<std::size_t>(row * row_bytes_ + first / type.block * type.block_bytes);
    const auto size = static_cast<std::size_t>((last - first) / type.block * type.block_bytes);
    dequantize_blocks(type, tensor_.bytes.subspan(at, size),
                      {values, static_cast<std::size_t>(last - first)});
  }

 private:
  const GgufFile& file_;
  const GgufTensor& tensor_;
  index_t row_bytes_;
  index_t head_;
};

}  // namespace

std::shared_ptr<const PackedMatrix> gguf_packed(const GgufFile& file, const DecoderConfig& config,
                                                std::string_view parameter, index_t rows, index_t cols) {
  const GgufTensor& tensor = file.tensor(gguf_name(parameter), std::vector<index_t>{rows, cols});
  if (!tensor.type->readable) {
    throw file.error("tensor '" + tensor.name + "' has the type " + std::string(tensor.type->name) +
                     ", expected one of " + readable_gguf_types());
  }
  return std::make_shared<GgufMatrix>(file, tensor,
                                      has_interleaved_rows(config, parameter) ? config.head_size : 0);
}

}  // namespace sparsegrad::finetune
