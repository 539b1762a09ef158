// What the outputs of a file's head mean, and whether they are those that a task asks for.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/encoder/model_config.hpp"

namespace sparsegrad::finetune {

/// What config.json says of the head's outputs.
struct HeadLabels {
  index_t count = 0;               ///< outputs; 0: nothing is said
  std::vector<std::string> names;  ///< by output; empty: none, or LABEL_0, LABEL_1, ... in this order
  std::string problem;             ///< "problem_type"; empty: not given
  std::string use;         ///< what else the outputs are for ("BertForMultipleChoice"); empty: nothing else
  std::string activation;  ///< what follows the outputs, where a field says so and it is not the identity

  /// What outputs of this number are, if they are neither one of several classes nor a score; empty otherwise.
  std::string unknown_kind(index_t outputs) const;
};

/// Reads "id2label", "label2id", "num_labels" and "problem_type", and what tells that a head is for something else.
/// Where two of them differ and one holds nothing but the numbers that transformers puts in, the other counts. Throws
/// ModelError naming `source` and the field: malformed, or contradicting another.
HeadLabels parse_head_labels(const nlohmann::json& json, std::string_view source);

/// A file's head beside the one that is wanted.
struct HeadMatch {
  bool usable = true;         ///< the outputs are those that are wanted, perhaps in another order
  bool only_names = false;    ///< not usable for its names alone
  std::vector<index_t> rows;  ///< the file's row for each output that is wanted; empty: the same order
  bool by_number =
      false;  ///< usable classes that the file has no names for: taken in the order of the wanted ones
  std::string found;   ///< for people: "3 outputs (a, b, c)"; empty where there is no head to compare
  std::string wanted;  ///< the same of what is wanted
};

/// Compares a head of `outputs` rows, which `labels` describes, with the one of `wanted`: number of outputs, score or
/// classes, and names, without case, '-', '_' and blanks. Names that only number the outputs (LABEL_1, 1) are classes
/// by their number.
HeadMatch match_head(const HeadLabels& labels, index_t outputs, const ModelConfig& wanted);

}  // namespace sparsegrad::finetune
