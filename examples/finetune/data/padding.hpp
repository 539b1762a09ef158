#pragma once

#include <string_view>

namespace sparsegrad::finetune {

/// Whether batches hold real tokens alone, or every sequence is filled up to the same length.
enum class Padding { unpadded, max_length };
std::string_view to_string(Padding padding);

}  // namespace sparsegrad::finetune
