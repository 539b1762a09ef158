#include "training/causal_parts.hpp"

#include <algorithm>
#include <charconv>
#include <string>

#include <fmt/format.h>

#include "training/trained_parts.hpp"

namespace sparsegrad::finetune {

namespace {

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

std::vector<MatrixKind> parse_matrices(std::string_view text) {
  if (text == "all") return {all_matrix_kinds.begin(), all_matrix_kinds.end()};
  std::vector<bool> chosen(all_matrix_kinds.size());
  for (const std::string_view name : split(text)) {
    const auto* found = std::find_if(all_matrix_kinds.begin(), all_matrix_kinds.end(),
                                     [&](MatrixKind kind) { return to_string(kind) == name; });
    if (found == all_matrix_kinds.end()) {
      throw ValueError(
          fmt::format("--matrices is '{}', expected all, or some of q, k, v, o, gate, up and down with "
                      "commas between them",
                      text));
    }
    const auto number = static_cast<std::size_t>(*found);
    if (chosen[number]) throw ValueError(fmt::format("--matrices is '{}', expected '{}' once", text, name));
    chosen[number] = true;
  }
  std::vector<MatrixKind> kinds;
  for (const MatrixKind kind : all_matrix_kinds)
    if (chosen[static_cast<std::size_t>(kind)]) kinds.push_back(kind);
  return kinds;
}

std::vector<index_t> parse_blocks(std::string_view text, index_t layers) {
  if (text == "every-third") return every_block(layers, 3);
  if (text == "every-second") return every_block(layers, 2);
  if (text == "all") return every_block(layers, 1);
  std::vector<index_t> blocks;
  for (const std::string_view word : split(text)) {
    index_t block = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), block);
    if (error != std::errc() || end != word.data() + word.size() || block < 0 || block >= layers) {
      throw ValueError(fmt::format(
          "--blocks is '{}', expected every-third, every-second, all, or numbers of the model's blocks, "
          "0 to {}, with commas between them",
          text, layers - 1));
    }
    if (std::find(blocks.begin(), blocks.end(), block) != blocks.end())
      throw ValueError(fmt::format("--blocks is '{}', expected block {} once", text, block));
    blocks.push_back(block);
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

TrainedParts trained_parts(const TrainOptions& options, const DecoderConfig& config) {
  const CausalOptions causal = options.causal.value_or(CausalOptions());
  TrainedParts parts;
  parts.mlp = matrix_training(options);
  if (options.trained == TrainedParameters::mlp) parts.dense = [](std::string_view) { return false; };
  parts.matrices.blocks = parse_blocks(causal.blocks, config.layers);
  parts.matrices.kinds = parse_matrices(causal.matrices);
  return parts;
}

}  // namespace sparsegrad::finetune
