// The commands on language models on a GPU.
#include "programs/cuda/run_device.cuh"

#include "checkpoints/decoder_folder_impl.hpp"
#include "programs/llm_evaluate_impl.hpp"
#include "programs/llm_generate_impl.hpp"
#include "programs/llm_train_impl.hpp"
#include "training/causal_run_data_impl.hpp"
#include "training/causal_session_impl.hpp"
#include "training/causal_source_impl.hpp"
#include "training/choice_scores_impl.hpp"
#include "training/generation_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class CausalRunData<float, backend::Cuda>;
template class BasicTrainer<DecoderModel<float, backend::Cuda>>;
// In llm_train_narrow.cu.
extern template int run_llm_train_on<bfloat16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                              const RunProcesses&);
extern template int run_llm_evaluate_on<bfloat16, backend::Cuda>(const LlmEvaluateCommand&);
extern template int run_generate_on<bfloat16, backend::Cuda>(const GenerateCommand&);
extern template int run_llm_train_on<float16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                             const RunProcesses&);
extern template int run_llm_evaluate_on<float16, backend::Cuda>(const LlmEvaluateCommand&);
extern template int run_generate_on<float16, backend::Cuda>(const GenerateCommand&);

int run_llm_train_on_cuda(const TrainOptions& options) {
  switch (options.dtype) {
    case NumberType::bfloat16:
      return run_llm_train_on<bfloat16, backend::Cuda>(options, "");
    case NumberType::float16:
      return run_llm_train_on<float16, backend::Cuda>(options, "");
    default:
      return run_llm_train_on<float, backend::Cuda>(options, "");
  }
}

int run_llm_evaluate_on_cuda(const LlmEvaluateCommand& command) {
  switch (command.common.dtype) {
    case NumberType::bfloat16:
      return run_llm_evaluate_on<bfloat16, backend::Cuda>(command);
    case NumberType::float16:
      return run_llm_evaluate_on<float16, backend::Cuda>(command);
    default:
      return run_llm_evaluate_on<float, backend::Cuda>(command);
  }
}

int run_generate_on_cuda(const GenerateCommand& command) {
  switch (command.common.dtype) {
    case NumberType::bfloat16:
      return run_generate_on<bfloat16, backend::Cuda>(command);
    case NumberType::float16:
      return run_generate_on<float16, backend::Cuda>(command);
    default:
      return run_generate_on<float, backend::Cuda>(command);
  }
}

}  // namespace sparsegrad::finetune
