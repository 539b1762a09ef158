#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/glue.hpp"

namespace sparsegrad::finetune {

/// A sentence of the built-in set with the phenomenon that it tests.
struct AcceptabilitySentence {
  std::string text;
  bool acceptable = false;
  std::string_view phenomenon;
};

/// The built-in acceptability judgements with their phenomena: English sentences put together from a small
/// lexicon, the same ones, in the same order, on every machine. No sentence is in both splits; in each
/// phenomenon a part of the words occurs in dev alone.
std::vector<AcceptabilitySentence> builtin_acceptability_sentences(Split split);

/// The same as a data set: label 1 for acceptable, 0 for not. The stand-in for CoLA where that is not to be
/// had.
Dataset builtin_acceptability(Split split);

}  // namespace sparsegrad::finetune
