#pragma once

#include <memory>
#include <string_view>

#include "checkpoints/gguf_file.hpp"
#include "models/decoder/decoder_config.hpp"
#include "models/parameters/packed_matrix.hpp"

namespace sparsegrad::finetune {

/// A decoder's matrix in the blocks of its file, which is mapped, with rows as Hugging Face has them (see
/// `gguf_parameter`). The file object must outlive it. Throws IoError or ModelError naming the tensor: one that is
/// missing, of another shape or of a type that cannot be read.
std::shared_ptr<const PackedMatrix> gguf_packed(const GgufFile& file, const DecoderConfig& config,
                                                std::string_view parameter, index_t rows, index_t cols);

}  // namespace sparsegrad::finetune
