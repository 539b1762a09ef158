// Which of a decoder's matrices are trained.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// The seven matrices of a decoder's block, in the order in which a block uses them.
enum class MatrixKind { q, k, v, o, gate, up, down };

inline constexpr std::array<MatrixKind, 7> all_matrix_kinds = {
    MatrixKind::q,    MatrixKind::k,  MatrixKind::v,   MatrixKind::o,
    MatrixKind::gate, MatrixKind::up, MatrixKind::down};

/// "q", "k", "v", "o", "gate", "up" or "down".
constexpr std::string_view to_string(MatrixKind kind) {
  constexpr std::string_view names[] = {"q", "k", "v", "o", "gate", "up", "down"};
  return names[static_cast<std::size_t>(kind)];
}

/// These kinds of matrices in these blocks: the paper's choice is `up` and `down` of every third block.
struct MatrixChoice {
  std::vector<index_t> blocks = {};  ///< counted from 0; none: no matrix is chosen
  std::vector<MatrixKind> kinds = {MatrixKind::up, MatrixKind::down};

  bool contains(index_t block, MatrixKind kind) const {
    bool in_block = false;
    for (const index_t b : blocks)
      in_block = in_block || b == block;
    bool of_kind = false;
    for (const MatrixKind k : kinds)
      of_kind = of_kind || k == kind;
    return in_block && of_kind;
  }
};

/// Blocks 0, step, 2 step, ... of `layers`: step 3 is the paper's, 1 all.
inline std::vector<index_t> every_block(index_t layers, index_t step) {
  std::vector<index_t> blocks;
  for (index_t l = 0; l < layers; l += step)
    blocks.push_back(l);
  return blocks;
}

}  // namespace sparsegrad::finetune
