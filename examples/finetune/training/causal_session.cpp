#include "training/causal_session_impl.hpp"

namespace sparsegrad::finetune {

index_t causal_max_length(const TrainOptions& options, const DecoderConfig& config) {
  if (options.max_length > config.max_positions) {
    throw ValueError(fmt::format("--max-length is {}, expected at most the model's {} positions",
                                 options.max_length, config.max_positions));
  }
  return options.max_length > 0 ? options.max_length : config.max_positions;
}

std::vector<AlsoEvaluated> also_evaluated(const CausalOptions& options) {
  std::vector<AlsoEvaluated> files;
  for (const std::string& text : options.evaluate_also) {
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const bool is_name = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
             c == '-';
    });
    if (equals == std::string::npos || !is_name || equals + 1 == text.size()) {
      throw ValueError(fmt::format(
          "--evaluate-also is '{}', expected NAME=FILE with a name of letters, digits, _ and -", text));
    }
    // Such a loss would have the name of another one's error, loss_standard_error_NAME, or of the run's own.
    if (name == "standard_error" || name.starts_with("standard_error_")) {
      throw ValueError(fmt::format(
          "--evaluate-also names '{}', expected a name that does not begin with standard_error: the log has "
          "loss_standard_error_NAME beside loss_NAME",
          name));
    }
    for (const AlsoEvaluated& other : files) {
      if (other.name != name) continue;
      throw ValueError(fmt::format("--evaluate-also names '{}' twice, expected a name for each file", name));
    }
    files.push_back({name, text.substr(equals + 1)});
  }
  return files;
}

ConversationFormat conversation_format(const CausalOptions& options) {
  ConversationFormat format;
  format.all_paths = options.all_paths;
  if (options.fields.empty()) return format;
  const std::size_t comma = options.fields.find(',');
  if (comma == std::string::npos || comma == 0 || comma + 1 == options.fields.size()) {
    throw ValueError(fmt::format(
        "--fields is '{}', expected the names of the question's and the answer's field: QUESTION,ANSWER",
        options.fields));
  }
  format.question = options.fields.substr(0, comma);
  format.answer = options.fields.substr(comma + 1);
  if (format.question == format.answer) {
    throw ValueError(fmt::format("--fields is '{}', expected two fields, found '{}' twice", options.fields,
                                 format.question));
  }
  return format;
}

template class CausalSession<float, HostBackend>;
template class CausalSession<bfloat16, HostBackend>;

}  // namespace sparsegrad::finetune
