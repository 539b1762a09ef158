#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <sparsegrad/core/config.hpp>

// Element types of GGUF files. Quantised ones store a row in blocks of 32 or 256 elements with common scales
// (ggml, ggml-common.h); a row is a whole number of blocks.
//
// In short:
//   const GgufType* type = find_gguf_type(12);       // Q4_K; null where the number is not known
//   dequantize_blocks(*type, bytes, values);         // bytes.size() / type->block_bytes blocks

namespace sparsegrad::finetune {

/// An element type of GGUF files.
struct GgufType {
  std::uint32_t id;       ///< ggml's number of it
  std::string_view name;  ///< ggml's name: "Q4_1"
  index_t block;          ///< elements of a block; 1 where the type is not quantised
  index_t block_bytes;    ///< bytes of a block
  bool readable;          ///< whether `dequantize_blocks` knows it
};

/// All types that have a size in ggml, by number.
std::span<const GgufType> gguf_types();
/// The type of this number; null when there is none.
const GgufType* find_gguf_type(std::uint32_t id);
/// The type of this name ("Q8_0"), which ggml has.
const GgufType& gguf_type(std::string_view name);
/// Names of the types that can be read, for messages: "F32, F16, ...".
std::string readable_gguf_types();

/// The values of whole blocks as float, bit by bit those of the Python package `gguf` (gguf.quants.dequantize):
/// every product and sum is rounded to float by itself. `blocks` has `values.size() / type.block` blocks. Throws
/// ShapeError when the sizes do not fit, ValueError when the type cannot be read.
void dequantize_blocks(const GgufType& type, std::span<const std::byte> blocks, std::span<float> values);

/// Whole blocks of F32, F16, BF16 or Q8_0, rounded to the nearest, bit by bit those of the Python package `gguf`
/// (gguf.quants.quantize). Throws ShapeError when the sizes do not fit; ValueError for another type, and for a value that
/// has none there: beyond 65504 in F16, or a block of Q8_0 whose scale, its largest value by 127, is.
void quantize_blocks(const GgufType& type, std::span<const float> values, std::span<std::byte> blocks);

}  // namespace sparsegrad::finetune
