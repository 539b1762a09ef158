// What people are told of the words that a vocabulary lacks.
#pragma once

#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "training/session.hpp"

namespace sparsegrad::finetune {

/// The share of each data set, as " train 0.10 %, dev 0.00 %".
template <class Session>
std::string unknown_text(const Session& session) {
  std::string text;
  for (const auto& [name, data] : session.data_sets())
    text += fmt::format("{} {} {:.2f} %", text.empty() ? "" : ",", name, 100 * data->unknown_share());
  return text;
}

/// A warning for each data set of which the vocabulary lacks much.
template <class Session>
void warn_of_unknown(const Session& session) {
  for (const auto& [name, data] : session.data_sets())
    if (const std::string text = data->unknown_warning(); !text.empty())
      fmt::print(stderr, "warning: {}\n", text);
}

}  // namespace sparsegrad::finetune
