#include "training/causal_session_impl.hpp"

namespace sparsegrad::finetune {

index_t causal_max_length(const TrainOptions& options, const DecoderConfig& config) {
  if (options.max_length > config.max_positions) {
    throw ValueError(fmt::format("--max-length is {}, expected at most the model's {} positions",
                                 options.max_length, config.max_positions));
  }
  return options.max_length > 0 ? options.max_length : config.max_positions;
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
  return format;
}

template class CausalSession<float, HostBackend>;
template class CausalSession<bfloat16, HostBackend>;

}  // namespace sparsegrad::finetune
