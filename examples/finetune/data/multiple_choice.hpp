// Records of multiple choice: a question, answers to choose from, and which of them is right.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace sparsegrad::finetune {

/// The answers to choose from, and which of them is right.
struct Choices {
  std::vector<std::string> texts;
  std::size_t right = 0;
};

/// A record of multiple choice.
struct ChoiceRecord {
  std::string question;
  Choices choices;  ///< none where the record does not say which is right
};

/// What records of this form are called; empty where the first one is of none:
///     instruction, output, answer              (LLM-Adapters: ARC, OpenBookQA, PIQA, BoolQ ...; the instruction ends with
///                                              "Answer format: answer1/answer2", the output has the answer's name, and
///                                              each choice is the output with another name there)
///     question: {stem, choices: [{text, label}]}, answerKey                    (AI2's ARC, OpenBookQA, CommonsenseQA)
///     question, choices: {text: [...], label: [...]}, answerKey                (the same on Hugging Face's hub)
///     question, choices: [...], answer: 2                                      (MMLU; from 0)
std::string multiple_choice_kind(const nlohmann::json& first);

/// Reads a record of such a kind. Throws DataError, without a file's name, for one that is of another form, has fewer than
/// two choices, or whose answer is none of them.
ChoiceRecord read_choices(const std::string& kind, const nlohmann::json& record);

}  // namespace sparsegrad::finetune
